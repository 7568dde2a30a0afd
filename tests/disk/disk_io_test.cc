// SPDX-License-Identifier: Apache-2.0
// Calls of coroutines on files: every engine, with and without the page cache, on files in memory
// and on the disk that the project is on.
#include "devices/disk/io/disk_io.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <string>
#include <vector>

#include "tests/support/disk_requests.h"
#include "tests/support/loop_device.h"
#include "tests/support/paths.h"
#include "tests/support/result_matchers.h"

namespace snapvm::disk {
namespace {

using test::fails;
using test::noise;
using test::ok;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kSize = 4ULL << 20;

bool all(std::span<const std::byte> bytes, std::byte value) {
    return std::ranges::all_of(bytes, [value](std::byte byte) { return byte == value; });
}

struct Variant {
    const char* name;
    io::EngineKind engine;
    bool direct;
    bool in_memory;
};

class DiskIos : public ::testing::TestWithParam<Variant> {
protected:
    DiskIos() : path_((GetParam().in_memory ? "/dev/shm" : test::build_folder()) + "/snapvm-disk-io-XXXXXX") {
        fd_ = UniqueFd(::mkstemp(path_.data()));
        EXPECT_EQ(::ftruncate(fd_.get(), kSize), 0);
        open();
    }
    ~DiskIos() override {
        file_.reset();
        ::unlink(path_.c_str());
    }

    /// Opens the file anew.
    void open(io::FaultHook hook = {}) {
        file_.reset();
        auto loop = IoLoop::make(GetParam().engine, std::move(hook));
        ASSERT_TRUE(ok(loop));
        loop_ = *std::move(loop);
        auto opened = DiskFile::open("root", path_, {.direct = GetParam().direct});
        ASSERT_TRUE(ok(opened));
        file_.emplace(*std::move(opened), *loop_);
    }
    template <class T>
    T run(Task<T> task) {
        return loop_->run(std::move(task));
    }
    void fill(std::byte value) const { ASSERT_TRUE(ok(write_all_at(fd_.get(), Bytes(kSize, value), 0, path_))); }
    [[nodiscard]] Bytes peek(std::uint64_t offset, std::size_t size) const {
        Bytes bytes(size);
        EXPECT_TRUE(ok(read_exactly_at(fd_.get(), bytes, offset, path_)));
        return bytes;
    }
    [[nodiscard]] struct stat look() const {
        struct stat info{};
        ::fstat(fd_.get(), &info);
        return info;
    }

    std::string path_;
    UniqueFd fd_;
    std::unique_ptr<IoLoop> loop_;
    std::optional<DiskIo> file_;
};

TEST_P(DiskIos, AnyOffsetSizeAndMemory) {
    Bytes model(kSize);
    std::mt19937 random(1);
    for (int i = 0; i < 300; ++i) {
        const std::uint64_t unit = std::array<std::uint64_t, 3>{1, 512, 4096}[random() % 3];
        const std::uint64_t offset = random() % (kSize / unit) * unit;
        const std::uint64_t size = std::min<std::uint64_t>((1 + random() % 80) * unit, kSize - offset);
        const std::size_t skew = random() % 2 * (random() % 600);
        Bytes bytes = noise(size + skew, static_cast<unsigned>(i));
        const std::span<std::byte> part = std::span(bytes).subspan(skew);
        if (random() % 2 == 0) {
            ASSERT_TRUE(ok(run(file_->write(offset, std::span<const std::byte>(part)))));
            std::ranges::copy(part, model.begin() + static_cast<std::ptrdiff_t>(offset));
        } else {
            ASSERT_TRUE(ok(run(file_->read(offset, part))));
            ASSERT_TRUE(std::ranges::equal(part, std::span(model).subspan(offset, size))) << offset << " " << size;
        }
    }
    ASSERT_TRUE(ok(run(file_->flush())));
    EXPECT_TRUE(peek(0, kSize) == model);
    EXPECT_EQ(file_->size(), kSize);
}

TEST_P(DiskIos, MorePartsThanACallTakes) {
    for (const std::size_t each : {512UL, 24UL}) {
        Bytes bytes = noise(3000 * each, 5);
        std::vector<iovec> parts;
        for (std::size_t i = 0; i < 3000; ++i) {
            parts.push_back({bytes.data() + i * each, each});
        }
        ASSERT_TRUE(ok(run(file_->write(4096, std::span<const iovec>(parts)))));
        EXPECT_TRUE(peek(4096, bytes.size()) == bytes) << each;
        const Bytes written = bytes;
        std::ranges::fill(bytes, std::byte{1});
        ASSERT_TRUE(ok(run(file_->read(4096, std::span<const iovec>(parts)))));
        EXPECT_TRUE(bytes == written) << each;
    }
}

Task<Status> write_number(DiskIo& file, std::uint64_t index) {
    Bytes bytes(4096, static_cast<std::byte>(index % 251));
    Status written = co_await file.write(index * bytes.size(), std::span<const std::byte>(bytes));
    CO_TRY(written);
    Bytes back(4096);
    Status seen = co_await file.read(index * bytes.size(), std::span<std::byte>(back));
    CO_TRY(seen);
    if (back != bytes) {
        co_return fail(ErrorKind::invalid, "other bytes came back");
    }
    co_return Status{};
}

// More than RawDisk has in flight, and each goes on with a further call when its first one ends.
TEST_P(DiskIos, AThousandInFlight) {
    std::size_t ended = 0;
    for (std::uint64_t i = 0; i < 1000; ++i) {
        start(write_number(*file_, i), [&](const Status& status) {
            EXPECT_TRUE(ok(status));
            ++ended;
        });
    }
    loop_->submit();
    while (ended < 1000) {
        pollfd event{loop_->event(), POLLIN, 0};
        ASSERT_EQ(::poll(&event, 1, 10'000), 1) << ended << " have ended";
        loop_->reap();
    }
    for (std::uint64_t i = 0; i < 1000; ++i) {
        EXPECT_TRUE(all(peek(i * 4096, 4096), static_cast<std::byte>(i % 251))) << i;
    }
    EXPECT_FALSE(loop_->wait().has_value()) << "nothing is under way";
}

TEST_P(DiskIos, ReadsBehindTheEndGiveZeros) {
    fill(std::byte{0x55});
    for (const std::uint64_t end : {kSize, kSize - 512, kSize - 700}) {
        ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(end)), 0);
        open();
        EXPECT_EQ(file_->size(), end);
        Bytes bytes(16384, std::byte{0x77});
        ASSERT_TRUE(ok(run(file_->read(kSize - 8192, std::span(bytes)))));
        const std::size_t here = end - (kSize - 8192);
        EXPECT_TRUE(all(std::span(bytes).first(here), std::byte{0x55}));
        EXPECT_TRUE(all(std::span(bytes).subspan(here), std::byte{0}));
        std::ranges::fill(bytes, std::byte{0x77});
        std::vector<iovec> parts = {{bytes.data(), 300}, {bytes.data() + 300, bytes.size() - 300}};
        ASSERT_TRUE(ok(run(file_->read(10 * kSize, std::span<const iovec>(parts)))));
        EXPECT_TRUE(all(bytes, std::byte{0}));
        EXPECT_EQ(look().st_size, static_cast<off_t>(end));
    }
}

TEST_P(DiskIos, WritesExtendAFile) {
    const Bytes bytes = noise(8192, 2);
    ASSERT_TRUE(ok(run(file_->write(kSize - 4096, std::span(bytes)))));
    EXPECT_EQ(file_->size(), kSize + 4096);
    EXPECT_EQ(look().st_size, static_cast<off_t>(kSize + 4096));
    EXPECT_TRUE(peek(kSize - 4096, 8192) == bytes);
    ASSERT_TRUE(ok(run(file_->write(2 * kSize, std::span(bytes).first(100)))));
    EXPECT_EQ(file_->size(), 2 * kSize + 100);
    EXPECT_EQ(look().st_size, static_cast<off_t>(2 * kSize + 100));
    EXPECT_TRUE(all(peek(kSize + 4096, kSize - 4096), std::byte{0}));
    for (const bool unmap : {false, true}) {
        const std::uint64_t end = file_->size();
        ASSERT_TRUE(ok(run(file_->zero(end - 50, 100'000, unmap))));
        EXPECT_EQ(file_->size(), end + 100'000 - 50);
        EXPECT_EQ(look().st_size, static_cast<off_t>(end + 100'000 - 50));
        EXPECT_TRUE(all(peek(end - 50, 100'000), std::byte{0}));
    }
    ASSERT_TRUE(ok(run(file_->discard(file_->size() - 10, 100'000))));
    EXPECT_EQ(look().st_size, static_cast<off_t>(file_->size()));
}

TEST_P(DiskIos, ATruncatedFileHasItsNewSize) {
    fill(std::byte{0x55});
    ASSERT_TRUE(ok(file_->truncate(kSize / 2)));
    EXPECT_EQ(file_->size(), kSize / 2);
    Bytes bytes(4096, std::byte{1});
    ASSERT_TRUE(ok(run(file_->read(kSize / 2, std::span(bytes)))));
    EXPECT_TRUE(all(bytes, std::byte{0}));
    ASSERT_TRUE(ok(file_->truncate(3 * kSize)));
    EXPECT_EQ(look().st_size, static_cast<off_t>(3 * kSize));
    EXPECT_TRUE(fails(file_->truncate(~0ULL), ErrorKind::system, "ftruncate"));
}

TEST_P(DiskIos, NoSuchOffset) {
    Bytes bytes(4096);
    for (const std::uint64_t offset : {~0ULL, ~0ULL - 4096, 1ULL << 63, (1ULL << 63) - 1}) {
        EXPECT_TRUE(fails(run(file_->read(offset, std::span(bytes))), ErrorKind::system, "read"));
        EXPECT_TRUE(fails(run(file_->write(offset, std::span<const std::byte>(bytes))), ErrorKind::system, "write"));
        EXPECT_TRUE(fails(run(file_->zero(offset, ~0ULL, true)), ErrorKind::system));
        EXPECT_TRUE(fails(run(file_->discard(offset, 4096)), ErrorKind::system));
    }
    EXPECT_EQ(file_->size(), kSize);
    EXPECT_TRUE(ok(run(file_->read(0, std::span(bytes).first(0)))));
    EXPECT_TRUE(ok(run(file_->write(0, std::span<const std::byte>()))));
    EXPECT_TRUE(ok(run(file_->zero(0, 0, true))));
    EXPECT_TRUE(ok(run(file_->discard(0, 0))));
}

TEST_P(DiskIos, ZeroesAndDiscards) {
    for (const int lacking : {0, 1, 2}) {
        for (const bool unmap : {false, true}) {
            fill(std::byte{0x55});
            int refused = 0;
            open([&](const io::Request& call) {
                return io::Fault{
                    .error = call.kind == io::Request::Kind::allocate && refused++ < lacking ? EOPNOTSUPP : 0,
                    .short_to = 0};
            });
            const auto before = look().st_blocks;
            ASSERT_TRUE(ok(run(file_->zero(1000, 2 << 20, unmap))));
            EXPECT_TRUE(all(peek(1000, 2 << 20), std::byte{0})) << lacking;
            EXPECT_EQ(peek(999, 1)[0], std::byte{0x55});
            EXPECT_EQ(peek(1000 + (2 << 20), 1)[0], std::byte{0x55});
            if (unmap && lacking == 0) {
                EXPECT_LT(look().st_blocks, before - 4000);
            }
        }
    }
    fill(std::byte{0x55});
    open();
    const auto before = look().st_blocks;
    ASSERT_TRUE(ok(run(file_->discard(1 << 20, 1 << 20))));
    EXPECT_LE(look().st_blocks, before - 2048);
    const DiskIo::Range hole = file_->hole_or_data((1 << 20) + 4096, kSize);
    EXPECT_TRUE(hole.hole);
    EXPECT_EQ(hole.size, (1U << 20) - 4096);
    const DiskIo::Range data = file_->hole_or_data(4096, kSize);
    EXPECT_FALSE(data.hole);
    EXPECT_EQ(data.size, (1U << 20) - 4096);
    EXPECT_EQ(file_->hole_or_data(4096, 1000).size, 1000U);
    EXPECT_TRUE(file_->hole_or_data(kSize, 1000).hole);
}

TEST_P(DiskIos, ShortCallsAreContinued) {
    for (const std::uint64_t step : {512UL, 4096UL, 700UL}) {
        open([=](const io::Request&) { return io::Fault{.error = 0, .short_to = step}; });
        const Bytes bytes = noise(20 * 4096, static_cast<unsigned>(step));
        ASSERT_TRUE(ok(run(file_->write(kSize - 4096, std::span(bytes)))));
        EXPECT_TRUE(peek(kSize - 4096, bytes.size()) == bytes) << step;
        Bytes back(bytes.size());
        ASSERT_TRUE(ok(run(file_->read(kSize - 4096, std::span(back)))));
        EXPECT_TRUE(back == bytes) << step;
    }
}

TEST_P(DiskIos, ErrorsAreTold) {
    int error = EIO;
    Bytes bytes(4096);
    const std::span<const std::byte> constant(bytes);
    for (const int code : {EIO, ENOSPC, EDQUOT}) {
        open([&](const io::Request&) { return io::Fault{.error = error, .short_to = 0}; });
        error = code;
        for (const Status& status :
             {run(file_->read(0, std::span(bytes))), run(file_->write(0, constant)), run(file_->zero(0, 4096, true)),
              run(file_->discard(0, 4096)), run(file_->flush())}) {
            ASSERT_TRUE(fails(status, ErrorKind::system, path_));
            EXPECT_EQ(status.error().code(), code);
        }
    }
    error = 0;
    EXPECT_TRUE(ok(run(file_->read(0, std::span(bytes))))) << "and it goes on";
}

// The kernel asks for one more try, and O_DIRECT may want more alignment than it says.
TEST_P(DiskIos, RefusalsThatAreNoErrors) {
    for (const int refusal : {EINTR, EAGAIN, EINVAL}) {
        int refusals = 0;
        open([&](const io::Request& call) {
            const bool direct = (::fcntl(call.fd, F_GETFL) & O_DIRECT) != 0;
            const bool refuse = refusal == EINVAL ? direct : refusals < 3;
            refusals += refuse ? 1 : 0;
            return io::Fault{.error = refuse ? refusal : 0, .short_to = 0};
        });
        const Bytes bytes = noise(8192, 7);
        ASSERT_TRUE(ok(run(file_->write(4096, std::span(bytes)))));
        Bytes back(8192);
        ASSERT_TRUE(ok(run(file_->read(4096, std::span(back)))));
        EXPECT_TRUE(back == bytes);
        EXPECT_EQ(refusals, refusal != EINVAL ? 3 : GetParam().direct ? 2 : 0);
    }
}

TEST_P(DiskIos, UsesThePageCacheIfToldTo) {
    int direct = 0;
    open([&](const io::Request& call) {
        direct += (::fcntl(call.fd, F_GETFL) & O_DIRECT) != 0 ? 1 : 0;
        return io::Fault{};
    });
    Bytes bytes(4096);
    ASSERT_TRUE(ok(run(file_->read(0, std::span(bytes)))));
    EXPECT_EQ(direct, GetParam().direct ? 1 : 0);
    file_->use_page_cache();
    ASSERT_TRUE(ok(run(file_->read(0, std::span(bytes)))));
    ASSERT_TRUE(ok(run(file_->write(0, std::span<const std::byte>(bytes)))));
    EXPECT_EQ(direct, GetParam().direct ? 1 : 0);
}

// Two files of one disk share its loop.
// The kernel forgets what it could not write from its cache, and the next flush succeeds.
TEST_P(DiskIos, AFailedFlushIsNotForgotten) {
    bool fails = true;
    open([&](const io::Request& request) {
        return io::Fault{.error = fails && request.kind == io::Request::Kind::flush ? EIO : 0};
    });
    EXPECT_TRUE(test::fails(run(file_->flush()), ErrorKind::system));
    fails = false;
    EXPECT_TRUE(ok(run(file_->flush()))) << "nothing was written";
    file_->use_page_cache();
    const Bytes bytes = noise(4096, 1);
    ASSERT_TRUE(ok(run(file_->write(0, std::span<const std::byte>(bytes)))));
    fails = true;
    EXPECT_TRUE(test::fails(run(file_->flush()), ErrorKind::system));
    fails = false;
    EXPECT_TRUE(test::fails(run(file_->flush()), ErrorKind::system));
}

TEST_P(DiskIos, TwoFilesOfOneLoop) {
    std::string path = path_ + "-XXXXXX";
    const UniqueFd fd(::mkstemp(path.data()));
    ASSERT_EQ(::ftruncate(fd.get(), kSize), 0);
    {
        DiskIo other(*DiskFile::open("other", path, {.direct = GetParam().direct}), *loop_);
        int ended = 0;
        const auto count = [&ended](const Status& status) {
            EXPECT_TRUE(ok(status));
            ++ended;
        };
        const Bytes one(4096, std::byte{1});
        const Bytes two(4096, std::byte{2});
        start(file_->write(0, std::span(one)), count);
        start(other.write(4096, std::span(two)), count);
        start(file_->write(8192, std::span(one)), count);
        while (ended < 3) {
            ASSERT_TRUE(ok(loop_->wait()));
        }
    }
    EXPECT_TRUE(all(peek(0, 4096), std::byte{1}));
    EXPECT_TRUE(all(peek(8192, 4096), std::byte{1}));
    EXPECT_TRUE(all(peek(4096, 4096), std::byte{0}));
    Bytes bytes(4096);
    ASSERT_TRUE(ok(read_exactly_at(fd.get(), bytes, 4096, path)));
    EXPECT_TRUE(all(bytes, std::byte{2}));
    ::unlink(path.c_str());
}

Task<Status> fail_often(DiskIo& file, int times) {
    Bytes bytes(512);
    for (int i = 0; i < times; ++i) {
        Status status = co_await file.read(0, std::span(bytes));
        if (status) {
            co_return fail(ErrorKind::invalid, "a fault was expected");
        }
    }
    co_return Status{};
}

// A fault ends a call at once. Neither does the stack grow with such calls, nor does the loop stop
// to turn.
TEST_P(DiskIos, CallsThatEndAtOnceNeedNoStack) {
    open([](const io::Request&) { return io::Fault{.error = EIO, .short_to = 0}; });
    EXPECT_TRUE(ok(run(fail_often(*file_, 100'000))));
}

INSTANTIATE_TEST_SUITE_P(Every, DiskIos,
                         ::testing::Values(Variant{"uring_direct", io::EngineKind::uring, true, false},
                                           Variant{"uring_cached", io::EngineKind::uring, false, false},
                                           Variant{"uring_memory", io::EngineKind::uring, false, true},
                                           Variant{"threads_direct", io::EngineKind::threads, true, false},
                                           Variant{"threads_cached", io::EngineKind::threads, false, false},
                                           Variant{"threads_memory", io::EngineKind::threads, false, true}),
                         [](const auto& instance) { return instance.param.name; });

TEST(DiskIoOnADevice, EndsWhereItEnds) {
    std::string path = test::build_folder() + "/snapvm-disk-io-XXXXXX";
    const UniqueFd fd(::mkstemp(path.data()));
    ASSERT_EQ(::ftruncate(fd.get(), kSize), 0);
    const test::LoopDevice device(path);
    ::unlink(path.c_str());
    if (device.path().empty()) {
        GTEST_SKIP() << device.reason();
    }
    const auto loop = *IoLoop::make(io::EngineKind::automatic, {});
    DiskIo file(*DiskFile::open("root", device.path(), {}), *loop);
    EXPECT_TRUE(file.device());
    EXPECT_EQ(file.size(), kSize);
    Bytes bytes(8192, std::byte{0x55});
    const std::span<const std::byte> constant(bytes);
    ASSERT_TRUE(ok(loop->run(file.write(kSize - 8192, constant))));
    for (const Status& status : {loop->run(file.write(kSize - 4096, constant)), loop->run(file.write(kSize, constant)),
                                 loop->run(file.zero(kSize - 4096, 8192, true))}) {
        ASSERT_TRUE(fails(status, ErrorKind::system));
        EXPECT_EQ(status.error().code(), ENOSPC);
    }
    ASSERT_TRUE(ok(loop->run(file.read(kSize - 4096, std::span(bytes)))));
    EXPECT_TRUE(all(std::span(bytes).first(4096), std::byte{0x55}));
    EXPECT_TRUE(all(std::span(bytes).subspan(4096), std::byte{0}));
    ASSERT_TRUE(ok(loop->run(file.zero(kSize - 8192, 8192, true))));
    ASSERT_TRUE(ok(loop->run(file.read(kSize - 8192, std::span(bytes)))));
    EXPECT_TRUE(all(bytes, std::byte{0}));
    EXPECT_TRUE(fails(file.truncate(kSize), ErrorKind::unsupported));
}

}  // namespace
}  // namespace snapvm::disk
