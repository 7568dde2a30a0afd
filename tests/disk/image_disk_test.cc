// SPDX-License-Identifier: Apache-2.0
// Disks over images: a random guest on a raw image against an array of bytes, and what an image
// that fails looks like to a guest.
#include "devices/disk/image/image_disk.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <list>
#include <random>
#include <string>
#include <vector>

#include "devices/disk/image/raw_image.h"
#include "tests/support/disk_requests.h"
#include "tests/support/paths.h"
#include "tests/support/result_matchers.h"

namespace snapvm::disk {
namespace {

using test::ok;
using test::ranged;
using test::run;
using Kind = DiskRequest::Kind;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kSize = 4ULL << 20;

struct Variant {
    const char* name;
    io::EngineKind engine;
    bool direct;
    bool in_memory;
};

class ImageDisks : public ::testing::TestWithParam<Variant> {
protected:
    ImageDisks() : path_((GetParam().in_memory ? "/dev/shm" : test::build_folder()) + "/snapvm-image-disk-XXXXXX") {
        fd_ = UniqueFd(::mkstemp(path_.data()));
        EXPECT_EQ(::ftruncate(fd_.get(), kSize), 0);
    }
    ~ImageDisks() override { ::unlink(path_.c_str()); }

    std::unique_ptr<ImageDisk> disk(io::FaultHook hook = {}) {
        auto loop = *IoLoop::make(GetParam().engine, std::move(hook));
        auto file = *DiskFile::open("root", path_, {.direct = GetParam().direct});
        auto image = std::make_unique<RawImage>(std::move(file), *loop, false);
        return std::make_unique<ImageDisk>(std::move(loop), std::move(image));
    }
    [[nodiscard]] Bytes contents() const {
        Bytes bytes(kSize);
        EXPECT_TRUE(ok(read_exactly_at(fd_.get(), bytes, 0, path_)));
        return bytes;
    }

    std::string path_;
    UniqueFd fd_;
};

/// A guest that has many requests in flight, none of which overlap, and knows what is on its disk.
class Guest {
public:
    Guest(Disk& disk, unsigned seed) : disk_(disk), random_(seed), model_(kSize), busy_(kSize / kSector) {}

    void play(int requests) {
        while (begun_ < requests || !in_flight_.empty()) {
            while (begun_ < requests && in_flight_.size() < Disk::kMaxInFlight && roll(12) != 0) {
                begin();
            }
            disk_.submit();
            if (in_flight_.empty()) {
                continue;
            }
            pollfd event{disk_.event(), POLLIN, 0};
            ASSERT_EQ(::poll(&event, 1, 10'000), 1) << in_flight_.size() << " requests never end";
            disk_.reap([this](DiskRequest& request, int error) { end(request, error); });
        }
    }
    [[nodiscard]] const Bytes& model() const { return model_; }

private:
    struct Sent {
        DiskRequest request;
        Bytes memory;
    };

    std::uint64_t roll(std::uint64_t sides) { return random_() % sides; }

    void begin() {
        ++begun_;
        const std::uint64_t first = roll(busy_.size());
        const std::uint64_t count = std::min<std::uint64_t>(1 + roll(roll(4) == 0 ? 300 : 16), busy_.size() - first);
        const auto range = std::span(busy_).subspan(first, count);
        if (std::ranges::any_of(range, [](char busy) { return busy != 0; })) {
            return;
        }
        Sent& sent = in_flight_.emplace_back();
        static constexpr std::array kKinds = {Kind::read,         Kind::read,         Kind::write,
                                              Kind::write,        Kind::write,        Kind::discard,
                                              Kind::write_zeroes, Kind::write_zeroes, Kind::flush};
        sent.request = ranged(kKinds[roll(kKinds.size())], first * kSector, count * kSector);
        sent.request.unmap = roll(2) == 0;
        sent.request.durable = roll(8) == 0;
        std::ranges::fill(range, char{1});
        if (sent.request.kind == Kind::read || sent.request.kind == Kind::write) {
            give_memory(sent);
        }
        disk_.add(sent.request);
    }

    // Splits the request's memory at random places, which are seldom aligned.
    void give_memory(Sent& sent) {
        const std::size_t skew = roll(2) * roll(4096);
        sent.memory.resize(sent.request.size + skew);
        std::ranges::generate(sent.memory, [this] { return static_cast<std::byte>(random_()); });
        std::byte* at = sent.memory.data() + skew;
        std::uint64_t left = sent.request.size;
        while (left > 0) {
            const std::uint64_t part = roll(3) == 0 ? left : 1 + roll(left);
            sent.request.buffers.push_back({at, part});
            at += part;
            left -= part;
        }
    }

    void end(DiskRequest& request, int error) {
        EXPECT_EQ(error, 0) << static_cast<int>(request.kind) << " at " << request.offset;
        const auto sent = std::ranges::find_if(in_flight_, [&](const Sent& one) { return &one.request == &request; });
        ASSERT_NE(sent, in_flight_.end()) << "a request that is not in flight";
        const auto range = std::span(model_).subspan(request.offset, request.size);
        const auto memory = std::span(sent->memory).last(sent->memory.empty() ? 0 : request.size);
        switch (request.kind) {
            case Kind::read: EXPECT_TRUE(std::ranges::equal(memory, range)) << request.offset; break;
            case Kind::write: std::ranges::copy(memory, range.begin()); break;
            case Kind::write_zeroes:
            case Kind::discard: std::ranges::fill(range, std::byte{0}); break;
            case Kind::flush: break;
        }
        std::ranges::fill(std::span(busy_).subspan(request.offset / kSector, request.size / kSector), char{0});
        in_flight_.remove_if([&](const Sent& one) { return &one.request == &request; });
    }

    Disk& disk_;
    std::mt19937_64 random_;
    Bytes model_;
    std::vector<char> busy_;  ///< by sector
    std::list<Sent> in_flight_;
    int begun_ = 0;
};

// What a discard leaves is not promised in general, but these file systems punch holes.
TEST_P(ImageDisks, ARandomGuestFindsWhatItWrote) {
    for (const unsigned seed : {1U, 2U}) {
        ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
        ASSERT_EQ(::truncate(path_.c_str(), kSize), 0);
        const auto under_test = disk();
        ASSERT_TRUE(ok(under_test->start()));
        Guest guest(*under_test, seed);
        guest.play(5000);
        EXPECT_TRUE(contents() == guest.model());
    }
}

TEST_P(ImageDisks, ARandomGuestWithShortCalls) {
    std::mt19937 random(3);
    const auto under_test = disk([&](const io::Request& call) {
        const bool again = random() % 20 == 0;
        return io::Fault{.error = again ? EAGAIN : 0,
                         .short_to = call.size > 1024 && random() % 4 == 0 ? 512 * (1 + random() % 2) : 0};
    });
    Guest guest(*under_test, 4);
    guest.play(2000);
    EXPECT_TRUE(contents() == guest.model());
}

TEST_P(ImageDisks, TellsWhatItIs) {
    const auto under_test = disk();
    EXPECT_EQ(under_test->size(), kSize);
    EXPECT_EQ(under_test->block_size(), 512U);
    EXPECT_FALSE(under_test->read_only());
    EXPECT_EQ(under_test->name(), "disk root (" + path_ + ")");
}

// A request costs no wake-up of its own: what ends in reap() is reported by it.
TEST_P(ImageDisks, NoEventForWhatWasReported) {
    const auto under_test = disk();
    for (const Kind kind : {Kind::flush, Kind::write_zeroes}) {
        EXPECT_EQ(run(*under_test, ranged(kind, 0, 4096)), 0);
        pollfd event{under_test->event(), POLLIN, 0};
        EXPECT_EQ(::poll(&event, 1, 0), 0);
    }
}

TEST_P(ImageDisks, ErrorsAreTold) {
    for (const int code : {EIO, ENOSPC}) {
        int error = code;
        const auto under_test = disk([&](const io::Request&) { return io::Fault{.error = error, .short_to = 0}; });
        for (const Kind kind : {Kind::read, Kind::write, Kind::flush, Kind::discard, Kind::write_zeroes}) {
            Bytes memory(4096);
            DiskRequest request = ranged(kind, 0, memory.size());
            request.buffers = {{memory.data(), memory.size()}};
            EXPECT_EQ(run(*under_test, request), code) << static_cast<int>(kind);
            request.durable = true;
            EXPECT_EQ(run(*under_test, request), code) << static_cast<int>(kind);
        }
        error = 0;
        Bytes memory(4096);
        DiskRequest request = ranged(Kind::read, 0, memory.size());
        request.buffers = {{memory.data(), memory.size()}};
        EXPECT_EQ(run(*under_test, request), 0) << "and it goes on";
    }
}

TEST_P(ImageDisks, ADurableWriteIsFlushed) {
    std::string calls;
    const auto under_test = disk([&](const io::Request& call) {
        calls += call.kind == io::Request::Kind::flush ? 'f' : call.kind == io::Request::Kind::write ? 'w' : 'z';
        return io::Fault{};
    });
    Bytes memory(4096);
    DiskRequest request = ranged(Kind::write, 0, memory.size());
    request.buffers = {{memory.data(), memory.size()}};
    EXPECT_EQ(run(*under_test, request), 0);
    EXPECT_EQ(calls, "w");
    request.durable = true;
    EXPECT_EQ(run(*under_test, request), 0);
    EXPECT_EQ(calls, "wwf");
    request.kind = Kind::write_zeroes;
    request.unmap = true;  // which every file system here has one call for
    EXPECT_EQ(run(*under_test, request), 0);
    EXPECT_EQ(calls, "wwfzf");
}

TEST_P(ImageDisks, DestroyedWithWorkInFlight) {
    std::vector<Bytes> memory(64, Bytes(1 << 16, std::byte{0x55}));
    std::vector<DiskRequest> requests;
    for (Bytes& own : memory) {
        requests.push_back(ranged(requests.size() % 2 == 0 ? Kind::write : Kind::read, 0, own.size()));
        requests.back().offset = requests.size() / 2 * own.size();
        requests.back().buffers = {{own.data(), own.size()}};
    }
    int flushes = 0;
    {
        const auto under_test = disk([&](const io::Request& call) {
            flushes += call.kind == io::Request::Kind::flush ? 1 : 0;
            return io::Fault{};
        });
        for (DiskRequest& request : requests) {
            under_test->add(request);
        }
    }
    EXPECT_EQ(contents()[0], std::byte{0x55});
    EXPECT_EQ(flushes, 1) << "the image is closed";
}

TEST_P(ImageDisks, TheHolesOfARawImageAreZeros) {
    ASSERT_TRUE(ok(write_all_at(fd_.get(), Bytes(1 << 20, std::byte{1}), 1 << 20, path_)));
    const auto under_test = disk();
    struct Expected {
        std::uint64_t offset;
        Extent extent;
        std::uint64_t size;
        std::uint64_t host_offset;
    };
    for (const Expected& expected :
         {Expected{0, Extent::zero, 1 << 20, ExtentRange::kNowhere}, Expected{1 << 20, Extent::data, 1 << 20, 1 << 20},
          Expected{(1 << 20) + 512, Extent::data, (1 << 20) - 512, (1 << 20) + 512},
          Expected{2 << 20, Extent::zero, 2 << 20, ExtentRange::kNowhere}}) {
        const auto found = under_test->loop().run(under_test->image().look(expected.offset, kSize - expected.offset));
        ASSERT_TRUE(ok(found));
        EXPECT_EQ(found->extent, expected.extent) << expected.offset;
        EXPECT_EQ(found->size, expected.size) << expected.offset;
        EXPECT_EQ(found->host_offset, expected.host_offset) << expected.offset;
        EXPECT_FALSE(found->compressed);
    }
    const auto part = under_test->loop().run(under_test->image().look(0, 1024));
    EXPECT_EQ(part->size, 1024U);
}

INSTANTIATE_TEST_SUITE_P(Every, ImageDisks,
                         ::testing::Values(Variant{"uring_direct", io::EngineKind::uring, true, false},
                                           Variant{"uring_memory", io::EngineKind::uring, false, true},
                                           Variant{"threads_direct", io::EngineKind::threads, true, false},
                                           Variant{"threads_memory", io::EngineKind::threads, false, true}),
                         [](const auto& instance) { return instance.param.name; });

/// An image whose mapping is damaged.
class Damaged final : public Image {
public:
    [[nodiscard]] const std::string& name() const override { return name_; }
    [[nodiscard]] std::uint64_t size() const override { return kSize; }
    [[nodiscard]] bool read_only() const override { return true; }
    [[nodiscard]] Image* backing() const override { return nullptr; }
    Task<Result<ExtentRange>> look(std::uint64_t /*offset*/, std::uint64_t /*size*/) override {
        co_return fail(ErrorKind::invalid, "damaged");
    }
    Task<Status> read(std::uint64_t /*offset*/, std::uint64_t /*size*/, std::span<const iovec> /*parts*/) override {
        return fail_at_once();
    }
    Task<Status> write(std::uint64_t /*offset*/, std::uint64_t /*size*/, std::span<const iovec> /*parts*/) override {
        return fail_at_once();
    }
    Task<Status> write_zeroes(std::uint64_t /*offset*/, std::uint64_t /*size*/, bool /*unmap*/) override {
        return fail_at_once();
    }
    Task<Status> discard(std::uint64_t /*offset*/, std::uint64_t /*size*/) override { return fail_at_once(); }
    Task<Status> resize(std::uint64_t /*size*/) override { return fail_at_once(); }
    Task<Status> fill_absent(std::uint64_t /*offset*/, std::uint64_t /*size*/,
                             std::span<const iovec> /*parts*/) override {
        return fail_at_once();
    }
    Task<Status> zero_absent(std::uint64_t /*offset*/, std::uint64_t /*size*/) override { return fail_at_once(); }
    Task<Status> rebase(std::string /*file*/, std::string /*format*/) override { return fail_at_once(); }
    Task<Status> flush() override { return fail_at_once(); }
    Task<Status> close() override { return fail_at_once(); }
    Task<Status> freeze(std::string /*path*/) override { return fail_at_once(); }
    [[nodiscard]] const DiskFile& file() const override { return file_; }
    std::shared_ptr<Image> exchange_backing(std::shared_ptr<Image> backing) override { return backing; }

private:
    static Task<Status> fail_at_once() { co_return fail(ErrorKind::invalid, "damaged"); }
    std::string name_ = "damaged";
    DiskFile file_;
};

// It ends with no call on any file, so that nothing but the disk tells of it.
TEST(ImageDiskErrors, ADamagedImageIsAnInputError) {
    ImageDisk disk(*IoLoop::make(io::EngineKind::automatic, {}), std::make_unique<Damaged>(), 4096);
    EXPECT_TRUE(disk.read_only());
    EXPECT_EQ(disk.block_size(), 4096U);
    for (const Kind kind : {Kind::read, Kind::write, Kind::flush, Kind::discard, Kind::write_zeroes}) {
        EXPECT_EQ(run(disk, ranged(kind, 0, 4096)), EIO);
    }
}

}  // namespace
}  // namespace snapvm::disk
