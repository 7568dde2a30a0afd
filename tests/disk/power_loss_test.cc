// SPDX-License-Identifier: Apache-2.0
// Power losses while a guest writes: whatever the file holds then, qemu-img finds no error in it,
// it opens, and all that the guest has flushed is there.
#include "tests/disk/power_loss.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <filesystem>
#include <set>
#include <span>

#include "devices/disk/qcow2/qcow2_image.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::disk {
namespace {

using snapvm::test::have_qemu_img;
using snapvm::test::is_clean;
using snapvm::test::make_image;
using snapvm::test::need;
using snapvm::test::qemu_io;
using snapvm::test::ScratchFolder;

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kSectors = 4096;  // of the guest's disk: 2 MiB
constexpr unsigned kRounds = 60;

struct Opened {
    std::unique_ptr<IoLoop> loop;
    std::unique_ptr<Image> image;
};

Result<Opened> open(const std::string& path, io::FaultHook hook = {}) {
    DiskOptions options;
    options.format = DiskFormat::qcow2;
    options.direct = false;
    Opened opened;
    opened.loop = need(IoLoop::make(options.engine, std::move(hook)));
    DiskFile file = need(DiskFile::open("root", path, options));
    qcow2::Header header = need(qcow2::read_header(file.fd.get(), std::filesystem::file_size(path), path));
    auto io = std::make_unique<DiskIo>(std::move(file), *opened.loop);
    auto image = opened.loop->run(qcow2::open_image(std::move(io), std::move(header), nullptr, {}));
    if (!image) {
        return fail(std::move(image).error());
    }
    opened.image = *std::move(image);
    return opened;
}

/// One call of the guest's.
struct Act {
    enum class Kind : std::uint8_t { write, zero, discard, flush };
    Kind kind{};
    std::uint64_t sector = 0;
    std::uint64_t sectors = 0;
    // When it was under way, in calls on the file, and in begins and ends of acts.
    std::size_t began = 0;
    std::size_t ended = 0;
    std::size_t first = 0;
    std::size_t last = 0;
    std::vector<std::byte> bytes = {};
    iovec part = {};
};

// What a sector holds after the act with this number. 0 stands for zeros.
std::uint64_t value_of(const Act& act, std::size_t number, std::uint64_t sector) {
    return act.kind == Act::Kind::write ? (number + 1) << 32 | sector : 0;
}

Task<Status> carry_out(Image& image, Act& act) {
    const std::uint64_t offset = act.sector * kSector;
    const std::uint64_t size = act.sectors * kSector;
    const std::span<const iovec> parts(&act.part, 1);
    switch (act.kind) {
        case Act::Kind::write: co_return co_await image.write(offset, size, parts);
        case Act::Kind::zero: co_return co_await image.write_zeroes(offset, size, true);
        case Act::Kind::discard: co_return co_await image.discard(offset, size);
        case Act::Kind::flush: break;
    }
    co_return co_await image.flush();
}

struct Variant {
    const char* name;
    const char* options;
};

/// Names the case in the tests' names.
[[maybe_unused]] void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

class PowerLossTest : public testing::TestWithParam<Variant> {
protected:
    // Several acts at a time, at places of their own. A flush may be among them.
    void play(Opened& opened, test::PowerLoss& calls) {
        for (unsigned round = 0; round < kRounds; ++round) {
            std::vector<Act*> batch;
            std::set<std::uint64_t> taken;
            for (std::uint64_t more = random_() % 6 + 1; more > 0; --more) {
                if (Act* const act = choose(taken); act != nullptr) {
                    batch.push_back(act);
                }
            }
            run(opened, calls, batch);
        }
    }

    Act* choose(std::set<std::uint64_t>& taken) {
        Act act;
        act.sectors = random_() % 8 == 0 ? random_() % 300 + 1 : random_() % 16 + 1;
        act.sector = random_() % (kSectors - act.sectors);
        const std::uint64_t dice = random_() % 20;
        act.kind = dice < 12   ? Act::Kind::write
                   : dice < 15 ? Act::Kind::zero
                   : dice < 17 ? Act::Kind::discard
                               : Act::Kind::flush;
        if (act.kind != Act::Kind::flush) {
            const auto next = taken.lower_bound(act.sector);
            if (next != taken.end() && *next < act.sector + act.sectors) {
                return nullptr;
            }
            for (std::uint64_t i = 0; i < act.sectors; ++i) {
                taken.insert(act.sector + i);
            }
        }
        acts_.push_back(std::move(act));
        Act& kept = acts_.back();
        if (kept.kind == Act::Kind::write) {
            kept.bytes.resize(kept.sectors * kSector);
            for (std::uint64_t i = 0; i < kept.bytes.size(); i += sizeof(std::uint64_t)) {
                const std::uint64_t value = value_of(kept, acts_.size() - 1, kept.sector + i / kSector);
                std::memcpy(kept.bytes.data() + i, &value, sizeof value);
            }
            kept.part = {kept.bytes.data(), kept.bytes.size()};
        }
        return &kept;
    }

    void run(Opened& opened, test::PowerLoss& calls, const std::vector<Act*>& batch) {
        std::size_t left = batch.size();
        for (Act* const act : batch) {
            act->began = calls.calls();
            act->first = ++ticks_;
            act->ended = ~std::size_t{0};
            start(carry_out(*opened.image, *act), [this, &left, &calls, act](const Status& status) {
                EXPECT_TRUE(status) << status.error().message();
                act->ended = calls.calls();
                act->last = ++ticks_;
                --left;
            });
        }
        calls.wait(*opened.loop, [&left] { return left == 0; });
    }

    // Returns the values that a sector may have if the power was lost before call `point`.
    [[nodiscard]] std::set<std::uint64_t> possible(std::uint64_t sector, std::size_t point) const {
        std::size_t flushed = 0;  // the begin of the last flush that had ended
        for (const Act& act : acts_) {
            if (act.kind == Act::Kind::flush && act.ended < point) {
                flushed = std::max(flushed, act.first);
            }
        }
        std::set<std::uint64_t> values = {0};  // the disk was empty
        for (std::size_t i = 0; i < acts_.size(); ++i) {
            const Act& act = acts_[i];
            if (act.kind == Act::Kind::flush || act.began > point || sector < act.sector ||
                sector >= act.sector + act.sectors) {
                continue;
            }
            if (act.last < flushed && act.kind != Act::Kind::discard) {
                values.clear();
            }
            values.insert(value_of(act, i, sector));
        }
        return values;
    }

    void check(const std::string& path, std::size_t point) {
        ASSERT_TRUE(is_clean(path, /*leaks_allowed=*/true));
        Opened opened = need(open(path));
        std::vector<std::byte> bytes(kSectors * kSector);
        const iovec part{bytes.data(), bytes.size()};
        need(opened.loop->run(opened.image->read(0, bytes.size(), std::span(&part, 1))));
        for (std::uint64_t sector = 0; sector < kSectors; ++sector) {
            std::uint64_t value = 0;
            std::memcpy(&value, bytes.data() + sector * kSector, sizeof value);
            for (std::uint64_t i = 0; i < kSector; i += sizeof value) {
                ASSERT_EQ(std::memcmp(bytes.data() + sector * kSector + i, &value, sizeof value), 0) << "torn";
            }
            const std::set<std::uint64_t> values = possible(sector, point);
            ASSERT_TRUE(values.contains(value))
                << "sector " << sector << " is of act " << (value >> 32) << ", sector " << (value & 0xFFFFFFFF)
                << "; the last possible act is " << (*values.rbegin() >> 32);
        }
        need(opened.loop->run(opened.image->close()));
        opened.image.reset();
        ASSERT_TRUE(is_clean(path, /*leaks_allowed=*/true));
    }

    ScratchFolder scratch_;
    std::mt19937_64 random_{std::random_device{}()};
    std::deque<Act> acts_;
    std::size_t ticks_ = 0;
};

TEST_P(PowerLossTest, LosesNothingThatWasFlushed) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const std::uint64_t seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    random_.seed(seed);
    const std::string path = scratch_.file("image");
    make_image(path, kSectors * kSector, GetParam().options);
    test::PowerLoss calls(path);
    {
        Opened opened = need(open(path, calls.hook()));
        play(opened, calls);
        need(calls.run(*opened.loop, opened.image->close()));
    }
    ASSERT_TRUE(is_clean(path)) << "nothing was lost";
    ASSERT_NO_FATAL_FAILURE(check(path, calls.calls()));
    const std::string lost = scratch_.file("lost");
    for (std::size_t i = 0; i < test::test_points(20); ++i) {
        const std::size_t point = random_() % (calls.calls() + 1);
        SCOPED_TRACE("before call " + std::to_string(point) + " of " + std::to_string(calls.calls()));
        calls.build(point, random_, lost);
        ASSERT_NO_FATAL_FAILURE(check(lost, point));
    }
}

INSTANTIATE_TEST_SUITE_P(Images, PowerLossTest,
                         testing::Values(Variant{"plain", ""}, Variant{"small", "cluster_size=4096"},
                                         Variant{"tiny", "cluster_size=512,refcount_bits=1"},
                                         Variant{"subclusters", "cluster_size=64k,extended_l2=on"},
                                         Variant{"version2", "compat=0.10"}, Variant{"lazy", "lazy_refcounts=on"}),
                         [](const auto& chosen) { return std::string(chosen.param.name); });

// The recorder must find what a driver gets wrong.
class Forgetful : public testing::Test {
protected:
    /// Writes `first`, and `second` when that has ended, or when it is durable.
    static Task<Status> write_two(DiskIo& file, bool flushes) {
        const std::vector<std::byte> bytes(4096, std::byte{1});
        const std::span<const std::byte> span(bytes);
        Status written = co_await file.write(0, span);
        CO_TRY(written);
        if (flushes) {
            Status flushed = co_await file.flush();
            CO_TRY(flushed);
        }
        co_return co_await file.write(4096, span);
    }
    /// Returns how many of many losses leave the second write without the first.
    unsigned out_of_order(bool flushes) {
        const std::string path = scratch_.file("file");
        make_image(path, 8192, {}, "raw");
        test::PowerLoss calls(path);
        const auto loop = need(IoLoop::make(io::EngineKind::automatic, calls.hook()));
        DiskOptions options;
        options.direct = false;
        DiskIo file(need(DiskFile::open("root", path, options)), *loop);
        need(calls.run(*loop, write_two(file, flushes)));
        unsigned count = 0;
        for (unsigned i = 0; i < 200; ++i) {
            calls.build(calls.calls(), random_, scratch_.file("lost"));
            const UniqueFd lost = need(open_file(scratch_.file("lost"), 0));
            std::vector<std::byte> bytes(8192);
            need(read_exactly_at(lost.get(), bytes, 0, "lost"));
            const auto has = [&](std::size_t from) {
                return std::any_of(bytes.begin() + static_cast<std::ptrdiff_t>(from),
                                   bytes.begin() + static_cast<std::ptrdiff_t>(from + 4096),
                                   [](std::byte byte) { return byte != std::byte{0}; });
            };
            const bool whole =
                std::all_of(bytes.begin(), bytes.begin() + 4096, [](std::byte b) { return b == std::byte{1}; });
            count += has(4096) && !whole ? 1 : 0;
        }
        return count;
    }

    ScratchFolder scratch_;
    std::mt19937_64 random_{7};
};

TEST_F(Forgetful, IsFoundOut) {
    if (!have_qemu_img()) {
        GTEST_SKIP() << "qemu-img is not installed";
    }
    EXPECT_GT(out_of_order(false), 20U);
    EXPECT_EQ(out_of_order(true), 0U);
}

}  // namespace
}  // namespace snapvm::disk
