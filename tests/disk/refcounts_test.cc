// SPDX-License-Identifier: Apache-2.0
// Reference counts against a model, for every width of a count; qemu-img judges what is on the
// disk.
#include "devices/disk/qcow2/refcounts.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <random>

#include "devices/disk/qcow2/entries.h"
#include "tests/disk/qcow2_rig.h"
#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"

namespace snapvm::disk {
namespace {

using namespace qcow2;
using namespace test_rig;
using test::fails;
using test::need;
using test::ok;

using Model = std::map<std::uint64_t, std::uint64_t>;  // the count of each cluster by its offset

struct Shape {
    unsigned refcount_order;
    unsigned cluster_bits;
};

void make_image(const std::string& path, Shape shape) {
    qemu({"qemu-img", "create", "-q", "-f", "qcow2", "-o",
          "refcount_bits=" + std::to_string(1U << shape.refcount_order) +
              ",cluster_size=" + std::to_string(1U << shape.cluster_bits),
          path, "64M"});
}

class Counts {
public:
    explicit Counts(const std::string& path, io::FaultHook hook = {})
        : file_(path, std::move(hook)), counts_(need(file_.run(Refcounts::open(file_.file(), file_.header(), 64)))) {}
    Refcounts* operator->() { return counts_.get(); }
    OpenFile& file() { return file_; }
    template <class T>
    T run(Task<T> task) {
        return file_.run(std::move(task));
    }
    [[nodiscard]] std::uint64_t cluster_size() { return file_.header().get().cluster_size(); }

private:
    OpenFile file_;
    std::unique_ptr<Refcounts> counts_;
};

/// What a driver does at a flush: raised counts, what refers to them, then the lowered ones.
Status flush(Counts& counts) {
    if (Status raised = counts.run(counts->write_raised()); !raised) {
        return raised;
    }
    auto lowered = counts.run(counts->lower(counts->take_released()));
    if (!lowered) {
        return fail(lowered.error());
    }
    return counts.run(counts->write_raised());
}

/// Random changes of the counts and of a model. Ends at the first failure of a call.
class Changes {
public:
    Changes(Counts& counts, unsigned seed, unsigned width) : counts_(counts), random_(seed), width_(width) {}
    Status go(unsigned steps) {
        for (unsigned step = 0; step < steps; ++step) {
            if (Status status = one(); !status) {
                return status;
            }
        }
        return {};
    }
    /// What the image counts at least, however the changes have ended.
    [[nodiscard]] const Model& durable() const { return durable_; }
    [[nodiscard]] const Model& model() const { return model_; }

private:
    Status one() {
        const unsigned choice = random_() % 16;
        if (choice < 7) {
            return allocate();
        }
        if (choice < 9 && !model_.empty()) {
            return raise();
        }
        if (choice < 14 && !model_.empty()) {
            lower_one();
            return {};
        }
        return flush_all();
    }
    Status allocate() {
        const std::uint64_t wanted = 1 + random_() % 40;
        ClusterRun run;
        if (random_() % 4 == 0) {
            auto offset = counts_.run(counts_->allocate_exactly(wanted));
            if (!offset) {
                return fail(offset.error());
            }
            run = ClusterRun(*offset, wanted);
        } else {
            auto some = counts_.run(counts_->allocate(wanted));
            if (!some) {
                return fail(some.error());
            }
            run = *some;
            EXPECT_LE(run.clusters, wanted);
            EXPECT_GE(run.clusters, 1U);
        }
        for (std::uint64_t i = 0; i < run.clusters; ++i) {
            const std::uint64_t offset = run.offset + i * counts_.cluster_size();
            EXPECT_TRUE(model_.emplace(offset, 1).second) << offset << " has two uses";
            EXPECT_FALSE(waiting_.contains(offset)) << offset << " is reused too early";
        }
        return {};
    }
    Model::iterator any() { return std::next(model_.begin(), static_cast<std::ptrdiff_t>(random_() % model_.size())); }
    Status raise() {
        const auto one = any();
        const std::uint64_t most = width_ == 64 ? ~0ULL : (1ULL << width_) - 1;
        const bool fits = one->second + waiting_count(one->first) < most;
        Status raised = counts_.run(counts_->raise(ClusterRun(one->first, 1)));
        if (!fits) {
            EXPECT_TRUE(fails(raised, ErrorKind::invalid));
            return {};
        }
        one->second += raised ? 1 : 0;
        return raised;
    }
    [[nodiscard]] std::uint64_t waiting_count(std::uint64_t offset) const {
        const auto found = waiting_.find(offset);
        return found == waiting_.end() ? 0 : found->second;
    }
    void lower_one() {
        const auto one = any();
        counts_->release(ClusterRun(one->first, 1));
        ++waiting_[one->first];
        if (auto least = durable_.find(one->first); least != durable_.end() && --least->second == 0) {
            durable_.erase(least);
        }
        if (--one->second == 0) {
            model_.erase(one);
        }
    }
    Status flush_all() {
        Status flushed = flush(counts_);
        if (flushed) {
            waiting_.clear();
            durable_ = model_;
        }
        return flushed;
    }

    Counts& counts_;
    std::mt19937 random_;
    unsigned width_;
    Model model_;
    Model waiting_;  // released, and not lowered yet
    Model durable_;
};

void expect_counts(const std::string& path, const Model& model, bool exactly) {
    Counts counts(path);
    for (const auto& [offset, count] : model) {
        const std::uint64_t there = need(counts.run(counts->count(offset)));
        if (exactly) {
            ASSERT_EQ(there, count) << offset;
        } else {
            ASSERT_GE(there, count) << offset;
        }
    }
}

class RefcountShapes : public ::testing::TestWithParam<Shape> {};

TEST_P(RefcountShapes, AgreeWithAModel) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    make_image(path, GetParam());
    Model model;
    {
        Counts counts(path);
        Changes changes(counts, GetParam().refcount_order * 100 + GetParam().cluster_bits,
                        1U << GetParam().refcount_order);
        ASSERT_TRUE(ok(changes.go(600)));
        ASSERT_TRUE(ok(flush(counts)));
        ASSERT_TRUE(ok(flush(counts)));
        EXPECT_FALSE(counts->dirty());
        EXPECT_FALSE(counts->has_released());
        model = changes.model();
        ASSERT_FALSE(model.empty());
        EXPECT_GT(counts->end(), model.rbegin()->first);
        // qemu-img looks at no cluster behind the end of the file.
        ASSERT_TRUE(ok(counts.file().file().truncate(counts->end())));
    }
    expect_counts(path, model, true);
    // qemu-img knows no use of these clusters, but of all others.
    const std::string judge = qemu_check(path);
    EXPECT_EQ(number_of(judge, "corruptions"), 0U) << judge;
    EXPECT_EQ(number_of(judge, "leaks"), model.size()) << judge;
}

std::vector<Shape> shapes() {
    std::vector<Shape> all;
    for (unsigned order = 0; order <= 6; ++order) {
        for (const unsigned bits : {9U, 12U, 16U}) {
            all.push_back(Shape(order, bits));
        }
    }
    return all;
}
INSTANTIATE_TEST_SUITE_P(All, RefcountShapes, ::testing::ValuesIn(shapes()), [](const auto& one) {
    return "Bits" + std::to_string(1U << one.param.refcount_order) + "Cluster" +
           std::to_string(1U << one.param.cluster_bits);
});

TEST(Refcounts, AFailedCallLosesNoCount) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const Shape shape(6, 9);  // the table moves early
    for (unsigned broken = 0;; ++broken) {
        const std::string path = folder.file("image");
        make_image(path, shape);
        unsigned calls = 0;
        bool met = false;
        bool flush_failed = false;
        bool armed = false;
        {
            Model durable;
            Counts counts(path, [&](const io::Request& request) {
                const bool hit = armed && request.kind != io::Request::Kind::read && calls++ == broken;
                met |= hit;
                flush_failed |= hit && request.kind == io::Request::Kind::flush;
                return io::Fault(hit ? EIO : 0, 0);
            });
            armed = true;
            Changes changes(counts, 7, 64);
            const Status status = changes.go(260);
            durable = changes.durable();
            ASSERT_EQ(status.has_value(), !met) << broken;
            if (met) {
                // A second attempt succeeds, and writes all, unless a flush has lost something.
                ASSERT_EQ(::system(("cp " + path + " " + path + ".crashed").c_str()), 0);
                expect_counts(path + ".crashed", durable, false);
                EXPECT_EQ(number_of(qemu_check(path + ".crashed"), "corruptions"), 0U) << broken;
                if (!flush_failed) {
                    ASSERT_TRUE(ok(flush(counts)));
                    ASSERT_TRUE(ok(flush(counts)));
                    durable = changes.model();
                }
            }
        }
        if (!met) {
            EXPECT_GT(broken, 20U);
            break;
        }
        EXPECT_EQ(number_of(qemu_check(path), "corruptions"), 0U) << broken;
    }
}

TEST(Refcounts, FreedClustersAreUsedAgain) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    make_image(path, Shape(4, 16));
    Counts counts(path);
    const std::uint64_t begin = counts->end();
    for (unsigned round = 0; round < 50; ++round) {
        for (std::uint64_t left = 100; left > 0;) {
            const ClusterRun run = need(counts.run(counts->allocate(left)));
            counts->release(run);
            left -= run.clusters;
        }
        ASSERT_TRUE(ok(flush(counts)));
    }
    EXPECT_LE(counts->end(), begin + 100 * counts.cluster_size());
}

TEST(Refcounts, TheTableGrowsFarBeyondItsFirstCluster) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    make_image(path, Shape(6, 9));
    std::uint64_t allocated = 0;
    {
        Counts counts(path);
        const std::uint32_t before = counts.file().header().get().refcount_table_clusters;
        const std::uint64_t large = need(counts.run(counts->allocate_exactly(30000)));
        allocated += 30000;
        while (allocated < 60000) {
            allocated += need(counts.run(counts->allocate(1000))).clusters;
        }
        ASSERT_TRUE(ok(flush(counts)));
        ASSERT_TRUE(ok(flush(counts)));
        EXPECT_GT(counts.file().header().get().refcount_table_clusters, before);
        EXPECT_EQ(need(counts.run(counts->count(large + 29999 * 512))), 1U);
        ASSERT_TRUE(ok(counts.file().file().truncate(counts->end())));
    }
    const std::string judge = qemu_check(path);
    EXPECT_EQ(number_of(judge, "corruptions"), 0U) << judge;
    EXPECT_EQ(number_of(judge, "leaks"), allocated) << judge;
}

void poke(const std::string& path, std::uint64_t offset, std::uint64_t value, std::size_t bytes) {
    std::vector<std::byte> word(8);
    store_be64(word, 0, value);
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(fd.get(), word.data() + 8 - bytes, bytes, static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes));
}

TEST(Refcounts, TablesAreNeverGivenOut) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    // qemu-img puts the header, the table, the block and the L1 table into the first clusters.
    for (std::uint64_t cluster = 0; cluster < 4; ++cluster) {
        make_image(path, Shape(4, 16));
        poke(path, (2ULL << 16) + cluster * 2, 0, 2);
        Counts counts(path);
        counts->protect(ClusterRun(3ULL << 16, 1));
        EXPECT_TRUE(fails(counts.run(counts->allocate(1)), ErrorKind::invalid)) << cluster;
        EXPECT_EQ(need(counts.run(counts->count(cluster << 16))), 0U);
        EXPECT_FALSE(counts->dirty());
    }
}

TEST(Refcounts, TablesAreNeverLowered) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    make_image(path, Shape(4, 16));
    Counts counts(path);
    for (std::uint64_t cluster = 0; cluster < 3; ++cluster) {
        EXPECT_TRUE(fails(counts.run(counts->lower({ClusterRun(cluster << 16, 1)})), ErrorKind::invalid));
        EXPECT_EQ(need(counts.run(counts->count(cluster << 16))), 1U);
    }
    EXPECT_TRUE(fails(counts.run(counts->lower({ClusterRun(20ULL << 16, 1)})), ErrorKind::invalid));
    EXPECT_TRUE(fails(counts.run(counts->lower({ClusterRun(512, 1)})), ErrorKind::invalid));
    EXPECT_TRUE(fails(counts.run(counts->raise(ClusterRun(20ULL << 16, 1))), ErrorKind::invalid));
    EXPECT_TRUE(fails(counts.run(counts->raise(ClusterRun(~0ULL << 16, 5))), ErrorKind::invalid));
}

TEST(Refcounts, RefusesImpossibleTables) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    const std::uint64_t table = 1ULL << 16;
    const std::vector<std::uint64_t> entries{1ULL << 9, 3, 1ULL << 40, ~0ULL << 16, 1ULL << 16, 2ULL << 16};
    for (const std::uint64_t entry : entries) {
        make_image(path, Shape(4, 16));
        poke(path, table + 8, entry, 8);
        OpenFile file(path);
        EXPECT_TRUE(fails(file.run(Refcounts::open(file.file(), file.header(), 64)), ErrorKind::invalid)) << entry;
    }
}

TEST(Refcounts, ACountThatWouldNotFitChangesNothing) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const test::ScratchFolder folder;
    const std::string path = folder.file("image");
    make_image(path, Shape(1, 16));
    Counts counts(path);
    const std::uint64_t offset = need(counts.run(counts->allocate_exactly(3)));
    const ClusterRun last(offset + (2ULL << 16), 1);
    ASSERT_TRUE(ok(counts.run(counts->raise(last))));
    ASSERT_TRUE(ok(counts.run(counts->raise(last))));
    EXPECT_TRUE(fails(counts.run(counts->raise(ClusterRun(offset, 3))), ErrorKind::invalid));
    EXPECT_EQ(need(counts.run(counts->count(offset))), 1U);
    EXPECT_EQ(need(counts.run(counts->count(last.offset))), 3U);
}

}  // namespace
}  // namespace snapvm::disk
