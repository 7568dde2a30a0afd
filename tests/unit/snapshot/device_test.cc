// SPDX-License-Identifier: Apache-2.0
// Areas on a block device: a loop device with direct I/O. Needs root; skipped with the reason
// elsewhere.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/support/loop_device.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

class Device : public SnapshotTest {
protected:
    void SetUp() override {
        SnapshotTest::SetUp();
        // Stale bytes everywhere, as on a disk that was used before.
        image_ = (folder_ / "image").string();
        const UniqueFd fd = *open_file(image_, O_RDWR | O_CREAT, 0600);
        const std::vector<std::byte> stale(kSize, std::byte{0xDD});
        ASSERT_OK(write_all_at(fd.get(), stale, 0, image_));
        device_ = LoopDevice(image_);
        loop_ = device_.path();
        if (loop_.empty()) {
            GTEST_SKIP() << device_.reason();
        }
    }
    void TearDown() override {
        device_ = {};
        SnapshotTest::TearDown();
    }
    static AreaShape shape(const FakeMachine& machine) { return {machine.config().blocks(), machine.config().cpus}; }

    static constexpr std::uint64_t kSize = 40ULL << 20;
    std::string image_;
    LoopDevice device_;
    std::string loop_;
};

TEST_F(Device, BecomesAnAreaOnlyByCreate) {
    FakeMachine machine;
    const AreaPath path{loop_, 1ULL << 20};
    const auto refused = write_snapshot(machine, path, {});
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(machine.thaws, 0);
    const auto size = create_area(path, shape(machine), {});
    ASSERT_OK(size);
    for (std::uint64_t generation = 1; generation < 4; ++generation) {
        for (std::uint64_t page = generation * 10; page < 300; page += generation) {
            machine.fill(BlockId::ram_low, page, generation);
        }
        machine.clear(BlockId::ram_low, 20 * generation);
        for (const CachePolicy cache : {CachePolicy::direct, CachePolicy::cached}) {
            WriteOptions options;
            options.cache = cache;
            ASSERT_OK(write_snapshot(machine, path, options));
            const auto report = verify_area(path);
            ASSERT_OK(report);
            EXPECT_EQ(report->fault_count, 0U) << report->faults.front();
            auto restored = open_snapshot(path, {.max_overlays = 0});
            ASSERT_OK(restored);
            FakeMachine again(*std::move(restored));
            expect_same_memory(machine, again);
        }
    }
    EXPECT_TRUE(inspect_area(path)->device);
    const std::string before = *read_file(image_, 64U << 20);
    EXPECT_EQ(before.substr(0, 1U << 20), std::string(1U << 20, '\xDD'));
    EXPECT_EQ(before.substr((1U << 20) + *size), std::string(kSize - (1U << 20) - *size, '\xDD'));
}

TEST_F(Device, ForeignMountedAndSmallAreRefused) {
    FakeMachine machine;
    ASSERT_EQ(std::system(("mkfs.ext4 -q -F " + loop_ + " >/dev/null 2>&1").c_str()), 0);
    const auto foreign = create_area({loop_, 0}, shape(machine), {});
    ASSERT_FALSE(foreign.has_value());
    EXPECT_NE(foreign.error().message().find("ext4"), std::string::npos) << foreign.error().message();
    EXPECT_FALSE(create_area({loop_, 8ULL << 20}, shape(machine), {}).has_value());
    const std::string mount = (folder_ / "mnt").string();
    std::filesystem::create_directory(mount);
    if (std::system(("mount " + loop_ + " " + mount + " 2>/dev/null").c_str()) == 0) {
        const auto busy = create_area({loop_, 0}, shape(machine), {.force = true});
        ASSERT_FALSE(busy.has_value());
        EXPECT_EQ(busy.error().kind(), ErrorKind::busy) << busy.error().message();
        ASSERT_EQ(std::system(("umount " + mount).c_str()), 0);
    }
    const auto small = create_area({loop_, 36ULL << 20}, shape(machine), {.force = true});
    ASSERT_FALSE(small.has_value());
    EXPECT_NE(small.error().message().find("room"), std::string::npos);
    ASSERT_OK(create_area({loop_, 0}, shape(machine), {.force = true}));
}

// Locks through two nodes of one disk are both granted, unless both are opened as the
// same inode.
TEST_F(Device, LocksHoldThroughASecondNode) {
    FakeMachine machine;
    struct stat info{};
    ASSERT_EQ(::stat(loop_.c_str(), &info), 0);
    const std::string second = (folder_ / "second-node").string();
    if (::mknod(second.c_str(), S_IFBLK | 0600, info.st_rdev) != 0 || !open_file(second, O_RDONLY)) {
        GTEST_SKIP() << "no device node can be made and opened in " << folder_;
    }
    ASSERT_OK(create_area({second, 0}, shape(machine), {}));
    ASSERT_OK(write_snapshot(machine, {loop_, 0}, {}));
    const auto pinned = open_snapshot({second, 0});
    ASSERT_OK(pinned);
    const auto report = write_snapshot(machine, {loop_, 0}, {});
    ASSERT_FALSE(report.has_value());
    EXPECT_EQ(report.error().kind(), ErrorKind::busy);
    EXPECT_EQ(create_area({second, 0}, shape(machine), {.force = true}).error().kind(), ErrorKind::busy);
}

}  // namespace
}  // namespace snapvm::test
