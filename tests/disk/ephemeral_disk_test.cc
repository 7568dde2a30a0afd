// SPDX-License-Identifier: Apache-2.0
// Ephemeral disks: their guests can write, and nothing of that reaches the disk or stays.
#include "devices/disk/image/ephemeral.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <random>
#include <vector>

#include "devices/disk/image/overlay.h"
#include "devices/disk/image/raw_image.h"
#include "tests/disk/qcow2_disk.h"
#include "tests/support/disk_requests.h"
#include "tests/support/loop_device.h"
#include "tests/support/need.h"
#include "tests/support/scoped_variable.h"
#include "vmm/base/opener.h"

namespace snapvm::disk {
namespace {

using test::fails;
using test::need;
using test::noise;
using test::ok;
using test::qemu_img;
using test::qemu_io;
using test::ranged;
using test::run;
using test::ScopedVariable;
using test::ScratchFolder;
using test::transfer;
using test_rig::Bytes;
using Kind = DiskRequest::Kind;

constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::uint64_t kSize = 16 * kMiB;

/// Returns the status of the file that this process has open under a name like `part`, or of none.
struct stat open_file_named(const std::string& part) {
    struct stat found{};
    for (const auto& one : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code closed;
        const std::string name = std::filesystem::read_symlink(one.path(), closed).string();
        if (name.find(part) != std::string::npos && ::stat(one.path().c_str(), &found) == 0) {
            return found;
        }
    }
    return {};
}

class EphemeralDisk : public ::testing::TestWithParam<Ephemeral> {
protected:
    void SetUp() override {
        std::mt19937_64 random(1);
        test_rig::write_file(base(), test_rig::noise(kSize, random));
        before_ = test_rig::read_file(base());
        std::filesystem::create_directory(scratch_.file("tmp"));
    }
    void TearDown() override { EXPECT_TRUE(test_rig::read_file(base()) == before_) << "the base was written"; }

    [[nodiscard]] std::string base() const { return scratch_.file("base"); }
    [[nodiscard]] static Result<std::unique_ptr<Disk>> open(const std::string& path, DiskOptions options = {}) {
        options.ephemeral = GetParam();
        auto disk = open_disk("root", path, std::move(options));
        if (disk) {
            need((*disk)->start());
        }
        return disk;
    }
    static Bytes read(Disk& disk, std::uint64_t offset, std::uint64_t size) {
        Bytes bytes(size);
        EXPECT_EQ(run(disk, transfer(Kind::read, offset, bytes)), 0);
        return bytes;
    }
    [[nodiscard]] Bytes of_base(std::uint64_t offset, std::uint64_t size) const {
        const auto begin = before_.begin() + static_cast<std::ptrdiff_t>(offset);
        return {begin, begin + static_cast<std::ptrdiff_t>(size)};
    }

    ScratchFolder scratch_;
    ScopedVariable tmp_{"TMPDIR", scratch_.file("tmp").c_str()};
    Bytes before_;
};

// The base is compared in TearDown().
TEST_P(EphemeralDisk, WhatIsWrittenIsReadAndGoneAfterwards) {
    {
        const auto disk = need(open(base()));
        EXPECT_EQ(disk->size(), kSize);
        EXPECT_FALSE(disk->read_only());
        Bytes data = noise(3 * kMiB, 2);
        EXPECT_EQ(run(*disk, transfer(Kind::write, kMiB + 512, data)), 0);
        EXPECT_EQ(run(*disk, ranged(Kind::write_zeroes, 8 * kMiB, kMiB)), 0);
        EXPECT_EQ(run(*disk, ranged(Kind::discard, 0, kMiB)), 0);
        EXPECT_EQ(run(*disk, ranged(Kind::flush, 0, 0)), 0);
        EXPECT_TRUE(read(*disk, kMiB + 512, data.size()) == data);
        EXPECT_TRUE(read(*disk, kMiB, 512) == of_base(kMiB, 512));
        EXPECT_TRUE(read(*disk, 8 * kMiB, kMiB) == Bytes(kMiB));
        EXPECT_TRUE(read(*disk, kSize - 4096, 4096) == of_base(kSize - 4096, 4096));
    }
    EXPECT_TRUE(read(*need(open(base())), 0, kSize) == before_);
}

TEST_P(EphemeralDisk, TheBaseMayBeAChainOfImages) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const std::string top = scratch_.file("top");
    qemu_img({"create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", top});
    qemu_io(top, {"write -P 7 64k 64k"});
    const Bytes image = test_rig::read_file(top);
    {
        const auto disk = need(open(top, {.format = DiskFormat::qcow2}));
        Bytes data = noise(kMiB, 3);
        EXPECT_EQ(run(*disk, transfer(Kind::write, 128 << 10, data)), 0);
        EXPECT_TRUE(read(*disk, 64 << 10, 64 << 10) == Bytes(64 << 10, std::byte{7}));
        EXPECT_TRUE(read(*disk, 128 << 10, kMiB) == data);
        EXPECT_TRUE(read(*disk, 0, 64 << 10) == of_base(0, 64 << 10));
    }
    EXPECT_TRUE(test_rig::read_file(top) == image) << "the image was written";
}

TEST_P(EphemeralDisk, ManyMachinesHaveOneDiskAtATime) {
    const auto one = need(open(base()));
    const auto other = need(open(base()));
    Bytes data = noise(4096, 4);
    EXPECT_EQ(run(*one, transfer(Kind::write, 0, data)), 0);
    EXPECT_TRUE(read(*one, 0, 4096) == data);
    EXPECT_TRUE(read(*other, 0, 4096) == of_base(0, 4096));
    EXPECT_TRUE(ok(open_disk("root", base(), {.read_only = true}))) << "nor does it keep readers out";
    EXPECT_TRUE(fails(open_disk("root", base(), {}), ErrorKind::busy)) << "a base must stay as it is";
}

TEST_P(EphemeralDisk, ABaseThatAnotherMachineWritesIsRefused) {
    const auto writer = need(open_disk("root", base(), {}));
    EXPECT_TRUE(fails(open(base()), ErrorKind::busy, "another machine writes it"));
}

// A guest that had the device itself finds its partitions.
TEST_P(EphemeralDisk, TheBaseMayBeADevice) {
    const test::LoopDevice loop(base(), 4096);
    if (loop.path().empty()) {
        GTEST_SKIP() << loop.reason();
    }
    const auto disk = need(open(loop.path()));
    EXPECT_EQ(disk->block_size(), 4096U);
    Bytes data = noise(4096, 5);
    EXPECT_EQ(run(*disk, transfer(Kind::write, 512, data)), 0);
    EXPECT_TRUE(read(*disk, 512, 4096) == data);
    EXPECT_TRUE(read(*disk, 0, 512) == of_base(0, 512));
}

TEST_P(EphemeralDisk, FlushesReachNoDisk) {
    std::atomic<int> flushes = 0;
    std::atomic<int> writes = 0;
    DiskOptions options;
    options.hook = [&](const io::Request& call) {
        flushes += call.kind == io::Request::Kind::flush ? 1 : 0;
        writes += call.kind == io::Request::Kind::write ? 1 : 0;
        return io::Fault{};
    };
    const auto disk = need(open(base(), options));
    Bytes data = noise(4096, 5);
    DiskRequest durable = transfer(Kind::write, 0, data);
    durable.durable = true;
    EXPECT_EQ(run(*disk, durable), 0);
    EXPECT_EQ(run(*disk, ranged(Kind::flush, 0, 0)), 0);
    EXPECT_GT(writes, 0);
    EXPECT_EQ(flushes, 0);
}

// At the limit a guest has a full disk, which stays whole.
TEST_P(EphemeralDisk, AtItsLimitTheDiskIsFull) {
    const auto disk = need(open(base(), {.ephemeral_max = 4 * kMiB}));
    EXPECT_NE(disk->name().find("at most 4M"), std::string::npos) << disk->name();
    const std::uint64_t part = 128 << 10;
    Bytes data = noise(part, 6);
    const auto fill = [&] {
        std::uint64_t filled = 0;
        for (; filled < kSize; filled += part) {
            if (const int error = run(*disk, transfer(Kind::write, filled, data)); error != 0) {
                EXPECT_EQ(error, ENOSPC);
                break;
            }
        }
        return filled;
    };
    const std::uint64_t filled = fill();
    EXPECT_GE(filled, 2 * kMiB);
    EXPECT_LT(filled, 4 * kMiB);
    EXPECT_EQ(run(*disk, ranged(Kind::flush, 0, 0)), 0);
    for (std::uint64_t at = 0; at < filled; at += part) {
        EXPECT_TRUE(read(*disk, at, part) == data) << at;
    }
    EXPECT_TRUE(read(*disk, filled + part, part) == of_base(filled + part, part));
    EXPECT_EQ(run(*disk, transfer(Kind::write, 0, data)), 0) << "what is there can be written again";
    // And so can what was discarded.
    EXPECT_EQ(run(*disk, ranged(Kind::discard, 0, filled)), 0);
    EXPECT_EQ(run(*disk, ranged(Kind::flush, 0, 0)), 0);
    EXPECT_EQ(run(*disk, transfer(Kind::write, filled, data)), 0);
}

TEST_P(EphemeralDisk, ALimitBelowItsTablesIsRefused) {
    EXPECT_TRUE(fails(open(base(), {.ephemeral_max = 4096}), ErrorKind::usage, "the tables of an overlay take"));
}

TEST_P(EphemeralDisk, NothingHasAName) {
    const auto disk = need(open(base()));
    EXPECT_TRUE(std::filesystem::is_empty(scratch_.file("tmp")));
    const bool memory = GetParam() == Ephemeral::memory;
    const struct stat file = open_file_named(memory ? "memfd:snapvm-disk-root" : scratch_.file("tmp") + "/");
    ASSERT_NE(file.st_ino, 0U) << "it is there all the same";
    EXPECT_EQ(file.st_nlink, 0U);
    if (!memory) {
        EXPECT_EQ(file.st_mode & 077, 0U) << "others may not read a guest's files";
    }
}

INSTANTIATE_TEST_SUITE_P(All, EphemeralDisk, ::testing::Values(Ephemeral::memory, Ephemeral::file),
                         [](const auto& one) { return std::string(name_of(one.param)); });

class EphemeralPlaces : public ::testing::Test {
protected:
    void SetUp() override {
        test_rig::write_file(scratch_.file("base"), noise(kMiB, 1));
        std::filesystem::create_directory(scratch_.file("tmp"));
    }
    [[nodiscard]] Result<std::unique_ptr<Disk>> open(Ephemeral how) const {
        return open_disk("root", scratch_.file("base"), {.ephemeral = how});
    }

    ScratchFolder scratch_;
    ScopedVariable tmp_{"TMPDIR", scratch_.file("tmp").c_str()};
};

TEST_F(EphemeralPlaces, MemoryHasALimitByItself) {
    EXPECT_NE(need(open(Ephemeral::memory))->name().find("at most 1G"), std::string::npos);
    EXPECT_EQ(need(open(Ephemeral::file))->name().find("at most"), std::string::npos);
}

TEST_F(EphemeralPlaces, MemoryThatAGuestDiscardsGoesBack) {
    const auto disk = need(open(Ephemeral::memory));
    const std::string name = "memfd:snapvm-disk-root";
    const auto before = open_file_named(name).st_blocks;
    Bytes data = noise(kMiB, 2);
    EXPECT_EQ(run(*disk, transfer(Kind::write, 0, data)), 0);
    EXPECT_GE(open_file_named(name).st_blocks, before + static_cast<blkcnt_t>(kMiB / 512));
    EXPECT_EQ(run(*disk, ranged(Kind::discard, 0, kMiB)), 0);
    EXPECT_EQ(run(*disk, ranged(Kind::flush, 0, 0)), 0);
    EXPECT_LT(open_file_named(name).st_blocks, before + static_cast<blkcnt_t>(kMiB / 2 / 512));
}

TEST_F(EphemeralPlaces, AFolderThatIsMissingIsNamed) {
    const ScopedVariable missing("TMPDIR", scratch_.file("none").c_str());
    const auto disk = open(Ephemeral::file);
    EXPECT_TRUE(fails(disk, ErrorKind::system, scratch_.file("none")));
    EXPECT_TRUE(fails(disk, ErrorKind::system, "set TMPDIR to a folder that can be written"));
    EXPECT_TRUE(ok(open(Ephemeral::memory)));
}

/// A host whose file systems have no files without a name.
class OldOpener final : public Opener {
public:
    OldOpener() { set_opener(this); }
    ~OldOpener() override { set_opener(nullptr); }
    [[nodiscard]] Result<UniqueFd> open(int folder, const std::string& path, int flags, unsigned mode) const override {
        if ((flags & O_TMPFILE) == O_TMPFILE) {
            return fail(Error::system("open", path, EOPNOTSUPP));
        }
        return Opener::open(folder, path, flags, mode);
    }
};

TEST_F(EphemeralPlaces, AFileLosesItsNameWhereNoneCanBeMadeWithout) {
    const OldOpener old;
    const auto disk = need(open(Ephemeral::file));
    EXPECT_TRUE(std::filesystem::is_empty(scratch_.file("tmp")));
    EXPECT_EQ(open_file_named(scratch_.file("tmp") + "/").st_nlink, 0U);
    EXPECT_NE(open_file_named(scratch_.file("tmp") + "/").st_ino, 0U);
    Bytes data = noise(4096, 2);
    EXPECT_EQ(run(*disk, transfer(Kind::write, 0, data)), 0);
}

// The same pieces make overlays with names.
TEST(Overlay, IsAnImageForOtherPrograms) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const ScratchFolder scratch;
    test_rig::write_file(scratch.file("base"), noise(kMiB, 1));
    auto loop = need(IoLoop::make(io::EngineKind::automatic, {}));
    DiskFile file;
    file.name = "an overlay";
    file.fd = need(open_file(scratch.file("top"), O_CREAT | O_EXCL | O_RDWR, 0600));
    auto made = make_overlay(std::move(file), {.size = kMiB, .backing_file = "base", .backing_format = "raw"});
    ASSERT_TRUE(ok(made));
    auto behind = std::make_unique<RawImage>(need(DiskFile::open("base", scratch.file("base"), {.read_only = true})),
                                             *loop, /*read_only=*/true);
    auto image = need(open_overlay(*std::move(made), std::move(behind), *loop));
    Bytes data = noise(8192, 2);
    const Parts parts{{data.data(), data.size()}};
    EXPECT_TRUE(ok(loop->run(image->write(4096, data.size(), parts))));
    EXPECT_TRUE(ok(loop->run(image->close())));
    image.reset();  // and with it the lock on the base
    EXPECT_TRUE(test::is_clean(scratch.file("top")));
    qemu_img({"convert", "-f", "qcow2", "-O", "raw", scratch.file("top"), scratch.file("raw")});
    Bytes expected = test_rig::read_file(scratch.file("base"));
    std::ranges::copy(data, expected.begin() + 4096);
    EXPECT_TRUE(test_rig::read_file(scratch.file("raw")) == expected);
}

}  // namespace
}  // namespace snapvm::disk
