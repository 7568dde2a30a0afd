// SPDX-License-Identifier: Apache-2.0
// The size of a disk changes, with qemu-img as the judge, after failed calls and power losses, too.
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <random>

#include "devices/disk/image/info.h"
#include "tests/disk/qcow2_disk.h"
#include "tests/support/need.h"
#include "vmm/base/try.h"

// Behind the others: its namespace hides snapvm::test from what they have in snapvm::disk.
#include "tests/disk/power_loss.h"

namespace snapvm::disk {
namespace {

using namespace test_rig;
using snapvm::test::fails;
using snapvm::test::is_clean;
using snapvm::test::need;

constexpr std::uint64_t kMiB = 1ULL << 20;

// Returns about half of a size, in whole sectors.
constexpr std::uint64_t half(std::uint64_t size) { return size / 2 / kSector * kSector; }

/// A change of size, and what the disk reads as before and after.
struct Resize {
    std::unique_ptr<Disk> disk;
    std::uint64_t size = 0;

    [[nodiscard]] const std::string& path() const { return disk->chain.front().path; }
    [[nodiscard]] Bytes after() const {
        Bytes bytes = disk->model;
        bytes.resize(size);
        return bytes;
    }
};

// Makes a disk whose contents reach its end, and closes it.
Resize make_resize(const Case& one, std::uint64_t size, std::mt19937_64& random) {
    Resize resize{.disk = make_disk(one, random), .size = size};
    Bytes& model = resize.disk->model;
    Opened opened(resize.disk->chain);
    EXPECT_TRUE(ok(opened.status()));
    const auto put = [&](std::uint64_t offset, std::uint64_t bytes) {
        const Bytes some = noise(bytes, random);
        EXPECT_TRUE(ok(opened.write(offset, some)));
        std::ranges::copy(some, model.begin() + static_cast<std::ptrdiff_t>(offset));
    };
    put(0, 8 * kSector);
    put(half(model.size()), 100 * kSector);
    put(model.size() - 9 * kSector, 9 * kSector);
    EXPECT_TRUE(ok(opened.run(opened->close())));
    return resize;
}

// Images whose L1 table has to move are those with small clusters.
class Resizes : public ::testing::TestWithParam<Case> {
protected:
    void SetUp() override { SNAPVM_REQUIRE_QEMU_IMG(); }

    // Changes the size, there and back again if `back`, and has QEMU look at the image.
    void expect_resized(Resize& resize) {
        {
            Opened opened(resize.disk->chain);
            ASSERT_TRUE(ok(opened.status()));
            ASSERT_TRUE(ok(opened.run(opened->resize(resize.size))));
            EXPECT_EQ(opened->size(), resize.size);
            ASSERT_EQ(opened.read(0, resize.size), resize.after());
            ASSERT_TRUE(ok(opened.run(opened->close())));
        }
        resize.disk->model = resize.after();
        EXPECT_TRUE(is_clean(resize.path()));
        EXPECT_EQ(snapvm::test::qemu_img_json({"info", resize.path()})["virtual-size"], resize.size);
        Opened again(resize.disk->chain);
        ASSERT_TRUE(ok(again.status()));
        ASSERT_EQ(again.read(0, resize.size), resize.disk->model);
    }
    void write_new_range(const Resize& resize, Bytes& after);
    std::mt19937_64 random_{7};
};

TEST_P(Resizes, GrowShrinkAndGrowAgain) {
    Resize resize = make_resize(GetParam(), GetParam().size, random_);
    const std::uint64_t before = resize.size;
    for (const std::uint64_t size :
         {before * 2 + 3 * kSector, half(before) + 11 * kSector, before, 8 * before, std::uint64_t{kSector}, before}) {
        SCOPED_TRACE(size);
        resize.size = size;
        ASSERT_NO_FATAL_FAILURE(expect_resized(resize));
        // What QEMU reads is the same.
        const std::string raw = resize.disk->folder.file("raw");
        write_file(raw, resize.disk->model);
        EXPECT_TRUE(snapvm::test::same_contents(resize.path(), "qcow2", raw, "raw"));
    }
}

TEST_P(Resizes, TheNewRangeCanBeWritten) {
    Resize resize = make_resize(GetParam(), GetParam().size * 3, random_);
    Bytes after = resize.after();
    ASSERT_NO_FATAL_FAILURE(write_new_range(resize, after));
    EXPECT_TRUE(is_clean(resize.path()));
}

void Resizes::write_new_range(const Resize& resize, Bytes& after) {
    Opened opened(resize.disk->chain);
    ASSERT_TRUE(ok(opened.status()));
    ASSERT_TRUE(ok(opened.run(opened->resize(resize.size))));
    for (const std::uint64_t offset : {resize.disk->model.size() - kSector, resize.size - 5 * kSector}) {
        const Bytes some = noise(5 * kSector, random_);
        ASSERT_TRUE(ok(opened.write(offset, some)));
        std::ranges::copy(some, after.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    ASSERT_EQ(opened.read(0, resize.size), after);
    ASSERT_TRUE(ok(opened.run(opened->close())));
}

// Each call fails in turn. The disk has then its old size or its new one, and nothing is lost.
TEST_P(Resizes, AFailedCallLosesNothing) {
    for (const std::uint64_t size : {GetParam().size * 5, half(GetParam().size) + kSector}) {
        bool failed = true;
        for (std::uint64_t failing = 0; failed; ++failing) {
            SCOPED_TRACE(std::to_string(size) + ", call " + std::to_string(failing));
            Resize resize = make_resize(GetParam(), size, random_);
            const Bytes& before = resize.disk->model;
            bool armed = false;
            bool flush_failed = false;
            failed = false;
            {
                std::uint64_t calls = 0;
                Opened opened(resize.disk->chain, {}, [&](const io::Request& request) {
                    const bool now = armed && calls++ == failing;
                    failed |= now;
                    flush_failed |= now && request.kind == io::Request::Kind::flush;
                    return io::Fault{.error = now ? EIO : 0};
                });
                ASSERT_TRUE(ok(opened.status()));
                armed = true;
                const Status resized = opened.run(opened->resize(size));
                armed = false;
                EXPECT_EQ(opened->size(), resized ? size : before.size());
                EXPECT_TRUE(resized.has_value() || failed) << resized.error().message();
                if (!flush_failed) {  // what a flush has lost stays lost
                    ASSERT_TRUE(ok(opened.write(0, noise(kSector, random_))));
                    ASSERT_TRUE(ok(opened.run(opened->resize(size))));
                    EXPECT_TRUE(ok(opened.run(opened->close())));
                }
            }
            EXPECT_TRUE(is_clean(resize.path(), /*leaks_allowed=*/true));
            Opened again(resize.disk->chain, {.read_only = true});
            ASSERT_TRUE(ok(again.status()));
            const std::uint64_t same = std::min(size, before.size());
            EXPECT_TRUE(again->size() == size || again->size() == before.size());
            const Bytes now = again.read(0, again->size());
            EXPECT_TRUE(std::equal(now.begin() + kSector, now.begin() + static_cast<std::ptrdiff_t>(same),
                                   before.begin() + kSector));
            if (size > before.size()) {
                EXPECT_TRUE(std::all_of(now.begin() + static_cast<std::ptrdiff_t>(same), now.end(),
                                        [](std::byte one) { return one == kZero; }));
            }
            ASSERT_LT(failing, 200U);
        }
    }
}

// At each call the power may be lost.
TEST_P(Resizes, APowerLossLosesNothing) {
    for (const std::uint64_t size : {GetParam().size * 5, half(GetParam().size) + kSector}) {
        const Resize resize = make_resize(GetParam(), size, random_);
        test::PowerLoss calls(resize.path());
        DiskOptions options;
        options.direct = false;
        const auto loop = need(IoLoop::make(options.engine, calls.hook()));
        {
            std::unique_ptr<Image> image;
            if (resize.disk->chain.size() > 1) {
                options.read_only = true;
                const Link& behind = resize.disk->chain.back();
                DiskFile file = need(DiskFile::open("root", behind.path, options));
                auto header = qcow2::read_header(file.fd.get(), std::filesystem::file_size(behind.path), behind.path);
                image = behind.format == "raw"
                            ? std::make_unique<RawImage>(std::move(file), *loop, true)
                            : need(loop->run(qcow2::open_image(std::make_unique<DiskIo>(std::move(file), *loop),
                                                               need(std::move(header)), nullptr, {.read_only = true})));
            }
            options.read_only = false;
            DiskFile file = need(DiskFile::open("root", resize.path(), options));
            auto header =
                need(qcow2::read_header(file.fd.get(), std::filesystem::file_size(resize.path()), resize.path()));
            image = need(loop->run(qcow2::open_image(std::make_unique<DiskIo>(std::move(file), *loop),
                                                     std::move(header), std::move(image), {})));
            need(calls.run(*loop, image->resize(size)));
            need(calls.run(*loop, image->close()));
        }
        const Bytes after = resize.after();
        Resize lost{.disk = std::make_unique<Disk>(), .size = size};
        lost.disk->chain = resize.disk->chain;
        lost.disk->chain.front().path = resize.disk->folder.file("lost");
        for (std::size_t point = 0; point <= calls.calls(); ++point) {
            SCOPED_TRACE(std::to_string(size) + ", before call " + std::to_string(point));
            calls.build(point, random_, lost.path());
            ASSERT_TRUE(is_clean(lost.path(), /*leaks_allowed=*/true));
            Opened opened(lost.disk->chain, {.read_only = true});
            ASSERT_TRUE(ok(opened.status()));
            const Bytes now = opened.read(0, opened->size());
            const std::uint64_t same = std::min(size, resize.disk->model.size());
            ASSERT_GE(now.size(), same);
            ASSERT_TRUE(
                std::equal(now.begin(), now.begin() + static_cast<std::ptrdiff_t>(same), resize.disk->model.begin()));
            ASSERT_TRUE(now.size() != size || now == after);
        }
    }
}

std::vector<Case> resize_cases() {
    std::vector<Case> chosen = {
        {"plain", "", kMiB},
        {"clusters_512", "cluster_size=512", kMiB / 4},
        {"clusters_512_counts_1", "cluster_size=512,refcount_bits=1", kMiB / 4},
        {"clusters_4096", "cluster_size=4096", kMiB + 3 * kSector},
        {"subclusters", "extended_l2=on,cluster_size=16k", kMiB + 5 * kSector},
        {"version_2", "compat=0.10,cluster_size=512", kMiB / 4},
        {"on_longer_raw", "cluster_size=4096", kMiB / 2 + kSector, Behind::raw, kMiB},
        {"on_longer_qcow2", "extended_l2=on,cluster_size=16k", kMiB / 2 + kSector, Behind::qcow2, kMiB + kSector},
        {"on_shorter_raw", "", kMiB, Behind::raw, kMiB / 2},
        {"version_2_on_longer", "compat=0.10", kMiB / 2, Behind::qcow2, kMiB},
    };
    return chosen;
}

INSTANTIATE_TEST_SUITE_P(Images, Resizes, ::testing::ValuesIn(resize_cases()),
                         [](const auto& one) { return one.param.name; });

class ResizeOf : public ::testing::Test {
protected:
    Status resize(const std::string& path, std::uint64_t size, bool read_only = false) {
        Opened opened({{path}}, {.read_only = read_only});
        TRY(opened.status());
        TRY(opened.run(opened->resize(size)));
        return opened.run(opened->close());
    }
    snapvm::test::ScratchFolder folder_;
    const std::string path_ = folder_.file("image");
};

TEST_F(ResizeOf, RefusesWhatIsNotPossible) {
    SNAPVM_REQUIRE_QEMU_IMG();
    make_image(path_, kMiB, "cluster_size=512");
    EXPECT_TRUE(fails(resize(path_, 0), ErrorKind::usage, "0 bytes"));
    EXPECT_TRUE(fails(resize(path_, kMiB + 1), ErrorKind::usage, "1048577 bytes"));
    EXPECT_TRUE(fails(resize(path_, (128ULL << 30) + kSector), ErrorKind::usage, "too large for clusters of 512"));
    EXPECT_TRUE(fails(resize(path_, 1ULL << 63), ErrorKind::usage, "at most 128G"));
    EXPECT_TRUE(fails(resize(path_, 2 * kMiB, true), ErrorKind::usage, "read-only"));
    EXPECT_EQ(need(image_info(path_)).size, kMiB);
    EXPECT_TRUE(is_clean(path_));
}

TEST_F(ResizeOf, TakesTheLargestSize) {
    SNAPVM_REQUIRE_QEMU_IMG();
    make_image(path_, kMiB, "cluster_size=512");
    ASSERT_TRUE(ok(resize(path_, 128ULL << 30)));
    EXPECT_TRUE(is_clean(path_));
}

// The snapshot keeps its disk's size, and goes back to it.
TEST_F(ResizeOf, AnInternalSnapshotKeepsItsSize) {
    SNAPVM_REQUIRE_QEMU_IMG();
    make_image(path_, 4 * kMiB, "cluster_size=4096");
    snapvm::test::qemu_io(path_, {"write -P 1 0 4M"});
    qemu_img({"snapshot", "-c", "first", path_});
    snapvm::test::qemu_io(path_, {"write -P 2 1M 1M"});
    for (const std::uint64_t size : {9 * kMiB, kMiB}) {
        ASSERT_TRUE(ok(resize(path_, size)));
        EXPECT_TRUE(is_clean(path_));
    }
    qemu_img({"snapshot", "-a", "first", path_});
    EXPECT_EQ(need(image_info(path_)).size, 4 * kMiB);
    snapvm::test::qemu_io(path_, {"read -P 1 0 4M"});
    EXPECT_TRUE(is_clean(path_));
}

// An entry that says no size of its disk is taken to have the image's.
TEST_F(ResizeOf, ASnapshotWithoutASizeKeepsTheImage) {
    SNAPVM_REQUIRE_QEMU_IMG();
    make_image(path_, kMiB, "compat=0.10");
    qemu_img({"snapshot", "-c", "first", path_});
    const std::uint64_t table = need(image_info(path_)).header->snapshots_offset;
    Bytes bytes = read_file(path_);
    ASSERT_GE(bytes[table + 39], std::byte{16});
    bytes[table + 39] = std::byte{8};  // of the extra data
    write_file(path_, bytes);
    EXPECT_TRUE(fails(resize(path_, 2 * kMiB), ErrorKind::unsupported, "do not say the size"));
}

/// A disk of a running machine.
class ResizeOfADisk : public ::testing::TestWithParam<DiskFormat> {
protected:
    [[nodiscard]] std::unique_ptr<snapvm::Disk> open(bool read_only = false) const {
        DiskOptions options;
        options.format = GetParam();
        options.read_only = read_only;
        auto disk = need(open_disk("root", path_, options));
        need(disk->start());
        return disk;
    }
    // Runs one request to its end, and returns its errno.
    static int run(snapvm::Disk& disk, DiskRequest& request) {
        std::optional<int> result;
        disk.add(request);
        disk.submit();
        while (!result) {
            pollfd event{.fd = disk.event(), .events = POLLIN, .revents = 0};
            (void)::poll(&event, 1, -1);
            disk.reap([&](DiskRequest&, int error) { result = error; });
        }
        return *result;
    }
    static DiskRequest request(DiskRequest::Kind kind, std::uint64_t offset, Bytes& bytes) {
        DiskRequest request;
        request.kind = kind;
        request.offset = offset;
        request.size = bytes.size();
        request.buffers = {{bytes.data(), bytes.size()}};
        return request;
    }
    void make() { make_image(path_, kMiB, {}, GetParam() == DiskFormat::raw ? "raw" : "qcow2"); }

    snapvm::test::ScratchFolder folder_;
    const std::string path_ = folder_.file("image");
};

TEST_P(ResizeOfADisk, GrowsWhileRequestsAreInFlight) {
    SNAPVM_REQUIRE_QEMU_IMG();
    make();
    const auto disk = open();
    Bytes first(64 << 10, std::byte{1});
    DiskRequest write = request(DiskRequest::Kind::write, 0, first);
    std::optional<int> written;
    disk->add(write);
    disk->submit();
    ASSERT_TRUE(ok(disk->resize(4 * kMiB)));
    EXPECT_EQ(disk->size(), 4 * kMiB);
    while (!written) {
        pollfd event{.fd = disk->event(), .events = POLLIN, .revents = 0};
        ASSERT_EQ(::poll(&event, 1, 60'000), 1) << "nothing tells that the write has ended";
        disk->reap([&](DiskRequest&, int error) { written = error; });
    }
    EXPECT_EQ(*written, 0);
    Bytes last(kSector, std::byte{2});
    DiskRequest at_the_end = request(DiskRequest::Kind::write, 4 * kMiB - kSector, last);
    EXPECT_EQ(run(*disk, at_the_end), 0);
    Bytes found(kSector);
    DiskRequest read = request(DiskRequest::Kind::read, 4 * kMiB - kSector, found);
    EXPECT_EQ(run(*disk, read), 0);
    EXPECT_EQ(found, last);
    EXPECT_EQ(need(image_info(path_, GetParam() == DiskFormat::raw ? "raw" : "qcow2")).size, 4 * kMiB);
}

TEST_P(ResizeOfADisk, RefusesWhatARunningMachineCannotHave) {
    SNAPVM_REQUIRE_QEMU_IMG();
    make();
    {
        const auto disk = open();
        EXPECT_TRUE(fails(disk->resize(kMiB / 2), ErrorKind::usage, "cannot shrink"));
        EXPECT_TRUE(fails(disk->resize(kMiB + 1), ErrorKind::usage, "1048577 bytes"));
        EXPECT_TRUE(fails(disk->resize(std::nullopt), ErrorKind::usage, "needs a new size"));
        EXPECT_TRUE(fails(disk->resize(~0ULL << 9), ErrorKind::usage, "cannot have"));
        EXPECT_TRUE(ok(disk->resize(kMiB)));
        EXPECT_EQ(disk->size(), kMiB);
    }
    EXPECT_TRUE(fails(open(true)->resize(2 * kMiB), ErrorKind::usage, "read-only"));
}

INSTANTIATE_TEST_SUITE_P(Formats, ResizeOfADisk, ::testing::Values(DiskFormat::raw, DiskFormat::qcow2),
                         [](const auto& one) { return one.param == DiskFormat::raw ? "raw" : "qcow2"; });

// Shrinking frees what is behind the end.
TEST_F(ResizeOf, ASmallerImageTakesLess) {
    SNAPVM_REQUIRE_QEMU_IMG();
    make_image(path_, 8 * kMiB, "");
    snapvm::test::qemu_io(path_, {"write -P 1 0 8M"});
    ASSERT_TRUE(ok(resize(path_, kMiB)));
    EXPECT_LT(std::filesystem::file_size(path_), 2 * kMiB);
    EXPECT_TRUE(is_clean(path_));
}

}  // namespace
}  // namespace snapvm::disk
