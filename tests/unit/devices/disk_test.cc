// SPDX-License-Identifier: Apache-2.0
// Raw disks: every engine, with and without the page cache, on files in memory and on the disk that
// the project is on.
#include "devices/disk/disk.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "devices/disk/raw.h"
#include "tests/support/disk_requests.h"
#include "tests/support/loop_device.h"
#include "tests/support/paths.h"
#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"

namespace snapvm {
namespace {

using test::fails;
using test::finish;
using test::noise;
using test::ok;
using test::ranged;
using test::run;
using test::transfer;
using Kind = DiskRequest::Kind;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kSize = 4ULL << 20;

/// A file that is gone with the object.
class TempFile {
public:
    explicit TempFile(const std::string& folder, std::uint64_t size = kSize) : path_(folder + "/snapvm-disk-XXXXXX") {
        fd_ = UniqueFd(::mkstemp(path_.data()));
        EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(size)), 0);
    }
    ~TempFile() { ::unlink(path_.c_str()); }
    TempFile(const TempFile&) = delete;
    TempFile& operator=(const TempFile&) = delete;
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] Bytes read(std::uint64_t offset, std::size_t size) const {
        Bytes bytes(size);
        EXPECT_TRUE(ok(read_exactly_at(fd_.get(), bytes, offset, path_)));
        return bytes;
    }
    void fill(std::byte value) const { EXPECT_TRUE(ok(write_all_at(fd_.get(), Bytes(kSize, value), 0, path_))); }
    [[nodiscard]] std::int64_t blocks() const {
        struct stat info{};
        ::fstat(fd_.get(), &info);
        return info.st_blocks;
    }

private:
    std::string path_;
    UniqueFd fd_;
};

Result<std::unique_ptr<Disk>> open(const std::string& path, DiskOptions options = {}) {
    auto disk = open_disk("root", path, std::move(options));
    if (disk) {
        if (Status started = (*disk)->start(); !started) {
            return fail(started.error());
        }
    }
    return disk;
}

struct Variant {
    const char* name;
    io::EngineKind engine;
    bool direct;
    bool in_memory;
};

class RawDisks : public ::testing::TestWithParam<Variant> {
protected:
    std::unique_ptr<Disk> disk(io::FaultHook hook = {}) {
        auto opened = open(
            file_.path(),
            {.read_only = false, .direct = GetParam().direct, .engine = GetParam().engine, .hook = std::move(hook)});
        EXPECT_TRUE(ok(opened));
        return *std::move(opened);
    }
    TempFile file_{GetParam().in_memory ? "/dev/shm" : test::build_folder()};
};

TEST_P(RawDisks, ManyInFlightLandWhereTheyBelong) {
    const auto raw = disk();
    Bytes data = noise(kSize, 1);
    std::vector<DiskRequest> requests;
    for (std::size_t i = 0; i < Disk::kMaxInFlight; ++i) {
        requests.push_back(transfer(Kind::write, i * 16384, std::span(data).subspan(i * 16384, 16384)));
    }
    std::ranges::shuffle(requests, std::mt19937(2));
    for (DiskRequest& request : requests) {
        raw->add(request);
    }
    EXPECT_EQ(finish(*raw, requests.size()), 0);
    EXPECT_EQ(run(*raw, ranged(Kind::flush, 0, 0)), 0);
    EXPECT_TRUE(file_.read(0, kSize) == data);
    Bytes back(kSize);
    for (std::size_t i = 0; i < requests.size(); ++i) {
        requests[i] = transfer(Kind::read, i * 16384, std::span(back).subspan(i * 16384, 16384));
        raw->add(requests[i]);
    }
    EXPECT_EQ(finish(*raw, requests.size()), 0);
    EXPECT_TRUE(back == data);
}

// A request costs no wake-up of its own: what ends in reap() is reported by it.
TEST_P(RawDisks, NoEventForWhatWasReported) {
    const auto raw = disk();
    Bytes data(4096);
    for (const Kind kind : {Kind::write, Kind::read, Kind::flush}) {
        EXPECT_EQ(run(*raw, transfer(kind, 0, data)), 0);
        pollfd event{raw->event(), POLLIN, 0};
        EXPECT_EQ(::poll(&event, 1, 0), 0);
    }
    DiskRequest discard = ranged(Kind::discard, 0, 4096);
    ASSERT_EQ(::ftruncate(file_.fd(), 0), 0);
    raw->add(discard);  // it ends at once, and nothing but the event tells
    EXPECT_EQ(finish(*raw, 1), EIO);
}

// Of buffers O_DIRECT wants what guests need not give: none of these is aligned, and the last one
// is longer than what is bounced at once.
TEST_P(RawDisks, BuffersOfAnyAlignment) {
    const auto raw = disk();
    Bytes data = noise(2 << 20, 3);
    for (const std::size_t size : {512UL, 4096UL, 600UL << 10}) {
        const std::size_t first = 1 + size / 3;
        DiskRequest write;
        write.kind = Kind::write;
        write.offset = 8192;
        write.size = size;
        write.buffers = {{data.data() + 3, first}, {data.data() + (1 << 20) + 5, size - first}};
        EXPECT_EQ(run(*raw, write), 0) << size;
        Bytes back(size + 1);
        EXPECT_EQ(run(*raw, transfer(Kind::read, 8192, std::span(back).subspan(1))), 0);
        EXPECT_TRUE(
            std::equal(back.begin() + 1, back.begin() + 1 + static_cast<std::ptrdiff_t>(first), data.begin() + 3))
            << size;
        EXPECT_TRUE(
            std::equal(back.begin() + 1 + static_cast<std::ptrdiff_t>(first), back.end(), data.begin() + (1 << 20) + 5))
            << size;
    }
}

TEST_P(RawDisks, ShortCallsAreContinued) {
    for (const std::uint64_t step : {512UL, 4096UL, 700UL}) {
        const auto raw = disk([=](const io::Request&) { return io::Fault{.error = 0, .short_to = step}; });
        Bytes data = noise(20 * 4096, static_cast<unsigned>(step));
        EXPECT_EQ(run(*raw, transfer(Kind::write, 4096, data)), 0);
        EXPECT_TRUE(file_.read(4096, data.size()) == data) << step;
        Bytes back(data.size());
        EXPECT_EQ(run(*raw, transfer(Kind::read, 4096, back)), 0);
        EXPECT_TRUE(back == data) << step;
    }
}

TEST_P(RawDisks, ErrorsAreTold) {
    Bytes data(4096);
    for (const int code : {EIO, ENOSPC}) {
        int error = code;
        const auto raw = disk([&](const io::Request&) { return io::Fault{.error = error, .short_to = 0}; });
        EXPECT_EQ(run(*raw, transfer(Kind::write, 0, data)), code);
        EXPECT_EQ(run(*raw, transfer(Kind::read, 0, data)), code);
        EXPECT_EQ(run(*raw, ranged(Kind::flush, 0, 0)), code);
        EXPECT_EQ(run(*raw, ranged(Kind::discard, 0, 4096)), code);
        EXPECT_EQ(run(*raw, ranged(Kind::write_zeroes, 0, 4096)), code);
        error = 0;
        EXPECT_EQ(run(*raw, transfer(Kind::read, 0, data)), 0) << "and it goes on";
    }
}

TEST_P(RawDisks, ADiscardGivesTheSpaceBack) {
    file_.fill(std::byte{0x55});
    const auto raw = disk();
    const auto before = file_.blocks();
    EXPECT_EQ(run(*raw, ranged(Kind::discard, 1 << 20, 1 << 20)), 0);
    EXPECT_LE(file_.blocks(), before - 2048);
    EXPECT_TRUE(file_.read(1 << 20, 1 << 20) == Bytes(1 << 20));
    EXPECT_TRUE(file_.read((1 << 20) - 512, 512) == Bytes(512, std::byte{0x55}));
    EXPECT_EQ(run(*raw, ranged(Kind::write_zeroes, 2 << 20, 1 << 20, true)), 0);
    EXPECT_LE(file_.blocks(), before - 4096);
    EXPECT_TRUE(file_.read(2 << 20, 1 << 20) == Bytes(1 << 20));
}

// Zeroing must work with every way of fallocate that a file system offers, and with none, at a
// sector's precision.
TEST_P(RawDisks, ZeroesInEveryWay) {
    for (const int lacking : {0, 1, 2}) {
        for (const bool unmap : {false, true}) {
            for (const bool durable : {false, true}) {
                file_.fill(std::byte{0x55});
                int refused = 0;
                const auto raw = disk([&](const io::Request& call) {
                    return io::Fault{
                        .error = call.kind == io::Request::Kind::allocate && refused++ < lacking ? EOPNOTSUPP : 0,
                        .short_to = 0};
                });
                DiskRequest request = ranged(Kind::write_zeroes, 1536, (2 << 20) + 512, unmap);
                request.durable = durable;
                ASSERT_EQ(run(*raw, request), 0) << lacking;
                EXPECT_TRUE(file_.read(1536, (2 << 20) + 512) == Bytes((2 << 20) + 512)) << lacking;
                EXPECT_TRUE(file_.read(1024, 512) == Bytes(512, std::byte{0x55}));
                EXPECT_TRUE(file_.read((2 << 20) + 2048, 512) == Bytes(512, std::byte{0x55}));
            }
        }
    }
}

TEST_P(RawDisks, ADiskThatShrinksFails) {
    file_.fill(std::byte{0x55});
    const auto raw = disk();
    ASSERT_EQ(::ftruncate(file_.fd(), 1 << 20), 0);
    Bytes data(8192);
    EXPECT_EQ(run(*raw, transfer(Kind::read, 2 << 20, data)), EIO);
    EXPECT_EQ(run(*raw, transfer(Kind::read, (1 << 20) - 4096, data)), EIO) << "across the new end";
    // No request may make the file grow again.
    DiskRequest durable = transfer(Kind::write, 2 << 20, data);
    durable.durable = true;
    for (const DiskRequest& request :
         {transfer(Kind::write, 2 << 20, data), durable, transfer(Kind::write, (1 << 20) - 4096, data),
          ranged(Kind::write_zeroes, 2 << 20, 8192), ranged(Kind::write_zeroes, (1 << 20) - 4096, 8192, true),
          ranged(Kind::discard, 2 << 20, 8192)}) {
        EXPECT_EQ(run(*raw, request), EIO) << static_cast<int>(request.kind) << " at " << request.offset;
    }
    struct stat info{};
    ASSERT_EQ(::fstat(file_.fd(), &info), 0);
    EXPECT_EQ(info.st_size, 1 << 20);
    EXPECT_EQ(file_.read((1 << 20) - 1, 1).front(), std::byte{0x55});
    EXPECT_EQ(run(*raw, transfer(Kind::read, 0, data)), 0);
    EXPECT_EQ(run(*raw, transfer(Kind::write, (1 << 20) - 8192, data)), 0) << "up to the new end";
    EXPECT_EQ(raw->size(), kSize);
}

TEST_P(RawDisks, DestroyedWithWorkInFlight) {
    std::vector<Bytes> data(64, Bytes(1 << 18));
    std::vector<DiskRequest> requests;
    for (Bytes& own : data) {
        requests.push_back(transfer(requests.size() % 2 == 0 ? Kind::write : Kind::read, 0, own));
    }
    const auto raw = disk();
    for (DiskRequest& request : requests) {
        raw->add(request);
    }
    raw->submit();
}

INSTANTIATE_TEST_SUITE_P(Every, RawDisks,
                         ::testing::Values(Variant{"uring_direct", io::EngineKind::uring, true, false},
                                           Variant{"uring_cached", io::EngineKind::uring, false, true},
                                           Variant{"threads_direct", io::EngineKind::threads, true, false},
                                           Variant{"threads_cached", io::EngineKind::threads, false, true}),
                         [](const auto& instance) { return instance.param.name; });

TEST(DiskRefusals, WhatIsNoDisk) {
    const std::string folder = "/dev/shm";
    EXPECT_TRUE(fails(open("/nonexistent/disk"), ErrorKind::system, "truncate"));
    EXPECT_TRUE(fails(open("/dev/shm"), ErrorKind::system, "give a file or a block device"));
    EXPECT_TRUE(fails(open("/dev/shm", {.read_only = true}), ErrorKind::invalid, "is a directory"));
    EXPECT_TRUE(fails(open("/dev/null"), ErrorKind::invalid, "neither a file nor a block device"));
    const TempFile empty(folder, 0);
    EXPECT_TRUE(fails(open(empty.path()), ErrorKind::invalid, "is empty"));
    const TempFile tiny(folder, 511);
    EXPECT_TRUE(fails(open(tiny.path()), ErrorKind::invalid, "is empty"));
    const TempFile odd(folder, 4096 + 700);
    EXPECT_EQ((*open(odd.path()))->size(), 4608U) << "whole sectors";
    const std::string fifo = folder + "/snapvm-disk-fifo-" + std::to_string(::getpid());
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    EXPECT_TRUE(fails(open(fifo), ErrorKind::invalid, "neither"));
    ::unlink(fifo.c_str());
}

class DiskFormats : public testing::Test {
protected:
    // The first write would destroy the image, so it is refused unless it was said to be raw.
    static void expect_refused(const TempFile& file, const std::string& part) {
        EXPECT_TRUE(fails(open(file.path(), {.format = DiskFormat::unstated}), ErrorKind::invalid, part));
        EXPECT_TRUE(fails(open(file.path(), {.read_only = true, .format = DiskFormat::unstated}), ErrorKind::invalid));
        EXPECT_TRUE(ok(open(file.path())));
    }
    static void write(const TempFile& file, std::string_view bytes, std::uint64_t offset) {
        const UniqueFd fd = *open_file(file.path(), O_WRONLY);
        ASSERT_TRUE(ok(write_all_at(fd.get(), std::as_bytes(std::span(bytes)), offset, "disk")));
    }
};

TEST_F(DiskFormats, AnImageOfAnotherFormatIsNotRaw) {
    using namespace std::string_view_literals;
    const std::pair<std::string, std::string_view> images[] = {{"a qcow2", "QFI\xfb\0\0\0\3"sv},
                                                               {"a QED", "QED\0"sv},
                                                               {"a VMDK", "KDMV\1\0\0\0"sv},
                                                               {"a VMDK", "# Disk DescriptorFile\n"},
                                                               {"a VHD", "conectix"},
                                                               {"a VHDX", "vhdxfile"},
                                                               {"a Parallels", "WithoutFreeSpace"},
                                                               {"a snapvm area", "snapvm\x1a\n"}};
    for (const auto& [name, magic] : images) {
        const TempFile file("/dev/shm", 1 << 20);
        write(file, magic, 0);
        expect_refused(file, "looks like " + name + ", and its first write as a raw disk would destroy that");
    }
    const TempFile qcow2("/dev/shm", 1 << 20);
    write(qcow2, "QFI\xfb", 0);
    expect_refused(qcow2, "add format=qcow2");
    const TempFile vdi("/dev/shm", 1 << 20);
    write(vdi, "\x7f\x10\xda\xbe", 64);
    expect_refused(vdi, "looks like a VDI");
    const TempFile fixed("/dev/shm", 1 << 20);
    write(fixed, "conectix", (1 << 20) - 512);
    expect_refused(fixed, "add format=raw");
}

TEST_F(DiskFormats, WhatHasNoMagicNumberIsRaw) {
    const TempFile file("/dev/shm", 1 << 20);
    write(file, "\xeb\x63\x90", 0);
    write(file, "QFI\xfb", 512);
    EXPECT_TRUE(ok(open(file.path(), {.format = DiskFormat::unstated})));
}

TEST_F(DiskFormats, AFileThatEndsWithinASectorIsRefusedUnlessItIsSaidToBeRaw) {
    const TempFile odd("/dev/shm", 4096 + 700);
    expect_refused(odd, "ends within a sector: a guest would not see its last 188 bytes; fill the sector up");
    const TempFile tiny("/dev/shm", 511);
    EXPECT_TRUE(fails(open(tiny.path(), {.format = DiskFormat::unstated}), ErrorKind::invalid, "last 511 bytes"));
}

// A guest that was restored knows what is on its disks: a new, empty file would destroy that.
TEST(DiskRefusals, AdviceFitsTheCommand) {
    const TempFile file("/dev/shm");
    const std::string missing = file.path() + "-missing";
    EXPECT_TRUE(fails(open(missing), ErrorKind::system, "make the file: truncate"));
    const auto expect_another = [](const Result<std::unique_ptr<Disk>>& refused) {
        ASSERT_FALSE(refused.has_value());
        const std::string line = refused.error().message();
        EXPECT_NE(line.find("--set disk.root.path=FILE"), std::string::npos) << line;
        EXPECT_EQ(line.find("truncate"), std::string::npos) << line;
        EXPECT_EQ(line.find("readonly=on"), std::string::npos) << line;
    };
    expect_another(open(missing, {.restored = true}));
    {
        const auto writer = open(file.path());
        ASSERT_TRUE(ok(writer));
        expect_another(open(file.path(), {.restored = true}));
    }
    ASSERT_EQ(::truncate(file.path().c_str(), 0), 0);
    EXPECT_TRUE(fails(open(file.path()), ErrorKind::invalid, "truncate"));
    expect_another(open(file.path(), {.restored = true}));
}

// Two machines that write one disk would destroy it. A machine that writes what another reads makes
// the other's cache wrong.
TEST(DiskRefusals, ADiskIsOneWritersOrManyReaders) {
    const TempFile file("/dev/shm");
    {
        const auto writer = open(file.path());
        ASSERT_TRUE(ok(writer));
        EXPECT_TRUE(fails(open(file.path()), ErrorKind::busy, "root"));
        EXPECT_TRUE(fails(open(file.path(), {.read_only = true}), ErrorKind::busy));
        const pid_t other = ::fork();
        if (other == 0) {
            ::_exit(open_disk("root", file.path(), {}) ? 0 : 7);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(other, &status, 0), other);
        EXPECT_EQ(WEXITSTATUS(status), 7);
    }
    const auto one = open(file.path(), {.read_only = true});
    const auto two = open(file.path(), {.read_only = true});
    EXPECT_TRUE(ok(one));
    EXPECT_TRUE(ok(two));
    EXPECT_TRUE(fails(open(file.path()), ErrorKind::busy, "readonly=on"));
}

// Disk images are made for sectors of 512. On a file system that wants more of O_DIRECT (a disk of
// 4 KiB sectors, a file copied by reflink on XFS) the guest would look for its partition table in
// the wrong place, and so boot on one host and not on another.
TEST(DiskOnADevice, AFilesBlocksAre512WhateverItsFileSystemWants) {
    const TempFile file(test::build_folder());
    DiskFile opened = *DiskFile::open("root", file.path(), {});
    opened.alignment = {4096, 4096};
    RawDisk raw(std::move(opened), {});
    ASSERT_TRUE(ok(raw.start()));
    EXPECT_EQ(raw.block_size(), 512U);
    Bytes data = noise(6 * 512, 8);
    const auto part = [&](std::size_t first, std::size_t count) {
        return std::span(data).subspan(512 * first, 512 * count);
    };
    EXPECT_EQ(run(raw, transfer(Kind::write, 3 * 512, part(0, 1))), 0);
    EXPECT_EQ(run(raw, transfer(Kind::write, 4 * 512, part(1, 5))), 0);
    Bytes page(4096);
    EXPECT_EQ(run(raw, transfer(Kind::read, 0, page)), 0) << "past the page cache";
    EXPECT_TRUE(std::equal(data.begin(), data.begin() + 5 * 512, page.begin() + 3 * 512));
    std::ranges::fill(page, std::byte{0x77});
    EXPECT_EQ(run(raw, transfer(Kind::write, 4096, page)), 0);
    Bytes sector(512);
    EXPECT_EQ(run(raw, transfer(Kind::read, 4096, sector)), 0);
    EXPECT_EQ(sector[0], std::byte{0x77});
}

// A device that has such sectors itself was partitioned by hosts that see them.
TEST(DiskOnADevice, ItsOwnSectorsAreItsBlocks) {
    const TempFile file(test::build_folder());
    const test::LoopDevice loop(file.path(), 4096);
    if (loop.path().empty()) {
        GTEST_SKIP() << loop.reason();
    }
    for (const bool direct : {true, false}) {
        EXPECT_EQ((*open(loop.path(), {.direct = direct}))->block_size(), 4096U);
    }
}

TEST(DiskOnADevice, WorksAndIsLockedWhateverItsNode) {
    const TempFile file(test::build_folder());
    file.fill(std::byte{0x55});
    const test::LoopDevice loop(file.path());
    if (loop.path().empty()) {
        GTEST_SKIP() << loop.reason();
    }
    for (const io::EngineKind engine : {io::EngineKind::uring, io::EngineKind::threads}) {
        const auto raw = open(loop.path(), {.engine = engine});
        ASSERT_TRUE(ok(raw));
        EXPECT_EQ((*raw)->size(), kSize);
        Bytes data = noise(64 << 10, 4);
        EXPECT_EQ(run(**raw, transfer(Kind::write, 64 << 10, data)), 0);
        Bytes back(data.size());
        EXPECT_EQ(run(**raw, transfer(Kind::read, 64 << 10, back)), 0);
        EXPECT_TRUE(back == data);
        EXPECT_EQ(run(**raw, ranged(Kind::discard, 64 << 10, 64 << 10)), 0);
        EXPECT_EQ(run(**raw, ranged(Kind::write_zeroes, 128 << 10, 64 << 10)), 0);
        EXPECT_EQ(run(**raw, ranged(Kind::write_zeroes, 192 << 10, 512, true)), 0);
        EXPECT_EQ(run(**raw, ranged(Kind::flush, 0, 0)), 0);
        back.resize(128 << 10);
        EXPECT_EQ(run(**raw, transfer(Kind::read, 128 << 10, std::span(back).first(65536 + 512))), 0);
        EXPECT_TRUE(std::ranges::all_of(std::span(back).first(65536 + 512),
                                        [](std::byte byte) { return byte == std::byte{0}; }));
        struct stat info{};
        ASSERT_EQ(::stat(loop.path().c_str(), &info), 0);
        const std::string second = test::build_folder() + "/snapvm-disk-node-" + std::to_string(::getpid());
        if (::mknod(second.c_str(), S_IFBLK | 0600, info.st_rdev) == 0) {
            EXPECT_TRUE(fails(open(second), ErrorKind::busy));
            EXPECT_TRUE(fails(open(second, {.read_only = true}), ErrorKind::busy));
            ::unlink(second.c_str());
        }
    }
}

}  // namespace
}  // namespace snapvm
