// SPDX-License-Identifier: Apache-2.0
// Merges of two neighbours of a chain, with qemu-img as the judge of what the images contain.
#include "devices/disk/image/merge.h"

#include <fcntl.h>

#include <cerrno>
#include <filesystem>
#include <list>

#include "tests/disk/merge_rig.h"
#include "tests/disk/power_loss.h"

namespace snapvm::disk {
namespace {

using namespace merge_rig;
using snapvm::test::fails;
using snapvm::test::is_clean;

MergeOptions small_pieces() { return {.piece = 64 << 10, .in_flight = 3}; }

std::vector<Layout> layouts_named(std::initializer_list<const char*> names) {
    std::vector<Layout> chosen;
    for (const Layout& one : layouts()) {
        if (std::ranges::find(names, one.name) != names.end()) {
            chosen.push_back(one);
        }
    }
    return chosen;
}

class Merge : public ::testing::TestWithParam<Layout> {
protected:
    void SetUp() override { SNAPVM_REQUIRE_QEMU_IMG(); }
};

TEST_P(Merge, TheChildPullsUpWhatItLacks) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        const Files files(GetParam(), seed);
        {
            Chain chain = need(files.open("child"));
            const MergeCost cost = need(chain.loop->run(estimate_merge(*chain.top, *chain.top->backing())));
            std::uint64_t done = 0;
            MergeOptions options = small_pieces();
            options.progress = [&](std::uint64_t now, std::uint64_t total) {
                EXPECT_LT(done, now);
                EXPECT_EQ(total, cost.up);
                done = now;
            };
            ASSERT_TRUE(ok(chain.loop->run(pull_up(*chain.top, files.behind(), options))));
            EXPECT_EQ(done, cost.up);
            EXPECT_EQ(chain.top->backing() == nullptr, files.layout().base.empty());
            ASSERT_TRUE(same(read_all(chain), files.model));
            ASSERT_TRUE(ok(chain.loop->run(chain.top->close())));
        }
        std::filesystem::remove(files.file("parent"));
        EXPECT_TRUE(is_clean(files.file("child")));
        ASSERT_TRUE(same(files.contents("child"), files.model));
        Chain again = need(files.open("child"));
        ASSERT_TRUE(same(read_all(again), files.model));
    }
}

TEST_P(Merge, TheParentTakesWhatTheChildHas) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        const Files files(GetParam(), seed);
        const Layout& layout = files.layout();
        {
            Chain chain = files.open_down();
            Image& parent = *chain.top->backing();
            const MergeCost cost = need(chain.loop->run(estimate_merge(*chain.top, parent)));
            std::uint64_t done = 0;
            MergeOptions options = small_pieces();
            options.progress = [&](std::uint64_t now, std::uint64_t total) {
                EXPECT_EQ(total, cost.down);
                done = now;
            };
            const Status folded = chain.loop->run(fold_down(*chain.top, parent, options));
            ASSERT_TRUE(ok(folded));
            EXPECT_EQ(done, cost.down);
            ASSERT_TRUE(same(read_all(chain), files.model));
            ASSERT_TRUE(ok(chain.loop->run(chain.top->close())));
        }
        if (layout.parent != "raw") {
            EXPECT_TRUE(is_clean(files.file("parent")));
        }
        Bytes merged = files.contents("parent", layout.parent_format());
        ASSERT_EQ(merged.size(), std::max(layout.child_size, layout.parent_size));
        merged.resize(layout.child_size);
        ASSERT_TRUE(same(merged, files.model));
    }
}

INSTANTIATE_TEST_SUITE_P(Chains, Merge, ::testing::ValuesIn(layouts()), [](const auto& one) { return one.param.name; });

/// A guest that writes, zeros, discards and reads while the child is merged. Requests that are
/// under way together do not overlap.
class Guest {
public:
    Guest(Image& image, Bytes& model, std::mt19937_64& random) : image_(image), model_(model), random_(random) {}
    void begin_some() {
        for (unsigned i = 0; i < 3; ++i) {
            begin(random_request(0, model_.size(), random_));
        }
    }
    [[nodiscard]] bool idle() const { return running_ == 0; }

private:
    struct Running {
        Request request;
        bool ended = false;
    };
    static bool overlap(const Request& a, const Request& b) {
        return a.offset < b.offset + b.size && b.offset < a.offset + a.size;
    }
    void begin(Request request) {
        // A large one would leave nothing for the merge.
        if (request.kind == Request::Kind::discard || (request.size > 256 * kSector && random_() % 8 != 0)) {
            return;
        }
        for (const Running& other : all_) {
            if (!other.ended && overlap(other.request, request)) {
                return;
            }
        }
        all_.push_back({.request = std::move(request), .ended = false});
        Running& one = all_.back();
        ++running_;
        start(execute(image_, one.request), [this, &one](const Status& status) { end(one, status); });
    }
    void end(Running& one, const Status& status) {
        EXPECT_TRUE(ok(status));
        const Request& request = one.request;
        const auto at = model_.begin() + static_cast<std::ptrdiff_t>(request.offset);
        if (request.kind == Request::Kind::read) {
            EXPECT_TRUE(std::ranges::equal(request.bytes, std::span(at, request.size)));
        } else if (request.kind == Request::Kind::write) {
            std::ranges::copy(request.bytes, at);
        } else {
            std::fill_n(at, request.size, kZero);
        }
        one.ended = true;
        --running_;
    }
    Image& image_;
    Bytes& model_;
    std::mt19937_64& random_;
    std::list<Running> all_;
    unsigned running_ = 0;
};

TEST_P(Merge, AGuestUsesTheChildMeanwhile) {
    for (std::uint64_t seed = 11; seed <= 12; ++seed) {
        Files files(GetParam(), seed);
        {
            Chain chain = need(files.open("child"));
            Guest guest(*chain.top, files.model, files.random());
            bool merged = false;
            start(pull_up(*chain.top, files.behind(), {.piece = 32 << 10, .in_flight = 2}), [&](const Status& status) {
                EXPECT_TRUE(ok(status));
                merged = true;
            });
            while (!merged || !guest.idle()) {
                if (!merged) {
                    guest.begin_some();
                }
                ASSERT_TRUE(ok(chain.loop->wait()));
            }
            ASSERT_TRUE(same(read_all(chain), files.model));
            ASSERT_TRUE(ok(chain.loop->run(chain.top->close())));
        }
        std::filesystem::remove(files.file("parent"));
        EXPECT_TRUE(is_clean(files.file("child")));
        ASSERT_TRUE(same(files.contents("child"), files.model));
    }
}

// Returns whether the child's header still names its parent.
bool has_parent(const Files& files, const std::string& name) {
    const std::string path = files.file(name);
    const UniqueFd fd = need(open_file(path, O_RDONLY));
    return need(qcow2::read_header(fd.get(), std::filesystem::file_size(path), path)).backing_file == "parent";
}

// Merges a child once more if that has not been done, and expects it to read as ever.
void complete_pull_up(const Files& files, const std::string& name) {
    ASSERT_TRUE(is_clean(files.file(name), /*leaks_allowed=*/true));
    Chain chain = need(files.open(name));
    ASSERT_TRUE(same(read_all(chain), files.model));
    if (has_parent(files, name)) {
        ASSERT_TRUE(ok(chain.loop->run(pull_up(*chain.top, files.behind(), small_pieces()))));
        ASSERT_TRUE(same(read_all(chain), files.model));
    }
    ASSERT_TRUE(ok(chain.loop->run(chain.top->close())));
    chain = {};
    EXPECT_FALSE(has_parent(files, name));
    ASSERT_TRUE(same(files.contents(name), files.model));
}

class BrokenMerge : public ::testing::TestWithParam<Layout> {
protected:
    void SetUp() override { SNAPVM_REQUIRE_QEMU_IMG(); }
};

TEST_P(BrokenMerge, APullUpWhoseCallFailsIsBegunAgain) {
    const Files files(GetParam(), 3);
    std::filesystem::copy_file(files.file("child"), files.file("whole"));
    bool failed = true;
    for (std::uint64_t failing = 0; failed; failing += 1 + failing * 2) {
        SCOPED_TRACE(failing);
        failed = false;
        std::filesystem::copy_file(files.file("whole"), files.file("child"),
                                   std::filesystem::copy_options::overwrite_existing);
        {
            bool armed = false;
            std::uint64_t calls = 0;
            Chain chain = need(files.open("child", [&](const io::Request&) {
                const bool now = armed && calls++ == failing;
                failed |= now;
                return io::Fault{.error = now ? EIO : 0};
            }));
            armed = true;
            const Status pulled = chain.loop->run(pull_up(*chain.top, files.behind(), small_pieces()));
            EXPECT_TRUE(failed || pulled);
            armed = false;
            ASSERT_TRUE(same(read_all(chain), files.model));
        }
        complete_pull_up(files, "child");
        if (HasFatalFailure()) {
            return;
        }
    }
}

TEST_P(BrokenMerge, APowerLossLeavesAChildThatReadsTheSame) {
    Files files(GetParam(), 4);
    test::PowerLoss losses(files.file("child"));
    {
        Chain chain = need(files.open("child", losses.hook()));
        ASSERT_TRUE(ok(losses.run(*chain.loop, pull_up(*chain.top, files.behind(), small_pieces()))));
    }
    ASSERT_GT(losses.calls(), 10U);
    const std::size_t last = losses.calls();
    for (std::size_t i = 0; i < test::test_points(6); ++i) {
        // The last calls are those of the header.
        const std::size_t point = i < 4 ? last - i : files.random()() % last;
        SCOPED_TRACE(point);
        losses.build(point, files.random(), files.file("lost"));
        complete_pull_up(files, "lost");
        if (HasFatalFailure()) {
            return;
        }
    }
}

TEST_P(BrokenMerge, APowerLossWhileItFoldsDownHarmsNeither) {
    Files files(GetParam(), 5);
    test::PowerLoss losses(files.file("parent"));
    {
        Chain chain = files.open_down("parent", losses.hook());
        ASSERT_TRUE(ok(losses.run(*chain.loop, fold_down(*chain.top, *chain.top->backing(), small_pieces()))));
    }
    for (std::size_t i = 0; i < test::test_points(4); ++i) {
        const std::size_t point = i == 0 ? losses.calls() : files.random()() % losses.calls();
        SCOPED_TRACE(point);
        losses.build(point, files.random(), files.file("lost"));
        {
            Chain chain = files.open_down("lost");
            ASSERT_TRUE(same(read_all(chain), files.model));
            ASSERT_TRUE(ok(chain.loop->run(fold_down(*chain.top, *chain.top->backing(), small_pieces()))));
        }
        Bytes merged = files.contents("lost", files.layout().parent_format());
        merged.resize(files.model.size());
        ASSERT_TRUE(same(merged, files.model));
    }
}

INSTANTIATE_TEST_SUITE_P(Chains, BrokenMerge,
                         ::testing::ValuesIn(layouts_named({"plain", "raw_parent_shorter", "subclusters", "compressed",
                                                            "version_2", "child_longer"})),
                         [](const auto& one) { return one.param.name; });

class MergeTest : public ::testing::Test {
protected:
    void SetUp() override { SNAPVM_REQUIRE_QEMU_IMG(); }
};

TEST_F(MergeTest, IsCancelledBetweenCopies) {
    const Files files(layouts().front(), 6);
    for (const int copies : {0, 1, 5}) {
        int asked = 0;
        MergeOptions options = small_pieces();
        options.cancelled = [&] { return asked++ >= copies; };
        {
            Chain chain = need(files.open("child"));
            EXPECT_TRUE(fails(chain.loop->run(pull_up(*chain.top, files.behind(), options)), ErrorKind::cancelled));
            ASSERT_TRUE(same(read_all(chain), files.model));
            ASSERT_TRUE(ok(chain.loop->run(chain.top->close())));
        }
        EXPECT_TRUE(has_parent(files, "child"));
        asked = 0;
        Chain chain = files.open_down();
        EXPECT_TRUE(
            fails(chain.loop->run(fold_down(*chain.top, *chain.top->backing(), options)), ErrorKind::cancelled));
        ASSERT_TRUE(same(read_all(chain), files.model));
        ASSERT_TRUE(ok(chain.loop->run(chain.top->close())));
    }
    complete_pull_up(files, "child");
}

TEST_F(MergeTest, EstimatesWhatEachWayCopies) {
    const ScratchFolder folder;
    make_image(folder.file("base"), 4 * kMiB);
    const auto overlay = [&](const std::string& name, const std::string& backing) {
        qemu_img({"create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", folder.file(name)});
    };
    overlay("parent", "base");
    overlay("child", "parent");
    qemu_io(folder.file("base"), {"write -q 0 4M"});
    qemu_io(folder.file("parent"), {"write -q 0 1M", "write -q -z 1M 1M"});
    qemu_io(folder.file("child"), {"write -q 512k 1536k", "write -q -z 256k 64k"});
    Chain chain = need(open_chain("root", folder.file("child"), {.format = DiskFormat::qcow2}));
    const MergeCost cost = need(chain.loop->run(estimate_merge(*chain.top, *chain.top->backing())));
    EXPECT_EQ(cost.down, 1536U << 10);
    EXPECT_EQ(cost.up, 448U << 10);
}

TEST_F(MergeTest, RefusesWhatItCannotDo) {
    const Files files(layouts().front(), 7);
    Chain chain = need(files.open("child"));
    Image& parent = *chain.top->backing();
    EXPECT_TRUE(fails(chain.loop->run(fold_down(*chain.top, parent, {})), ErrorKind::usage, "for reading only"));
    EXPECT_TRUE(fails(chain.loop->run(pull_up(parent, {}, {})), ErrorKind::usage, "for reading only"));
    EXPECT_TRUE(fails(chain.loop->run(pull_up(*parent.backing(), {}, {})), ErrorKind::usage, "no backing image"));
    // The base would be lost.
    EXPECT_TRUE(fails(chain.loop->run(pull_up(*chain.top, {}, {})), ErrorKind::usage, "do not match"));
    ASSERT_TRUE(same(read_all(chain), files.model));
}

}  // namespace
}  // namespace snapvm::disk
