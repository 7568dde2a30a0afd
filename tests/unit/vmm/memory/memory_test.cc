// SPDX-License-Identifier: Apache-2.0
// Blocks and the checked access to them.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <set>

#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

MemoryBlock block(BlockId id, std::uint64_t base, std::uint64_t size) {
    return *MemoryBlock::anonymous({id, Gpa{base}, size}, PagePolicy::small_pages);
}

template <class... Blocks>
Result<GuestMemory> memory_of(Blocks&&... blocks) {
    std::vector<MemoryBlock> list;
    (list.push_back(std::forward<Blocks>(blocks)), ...);
    return GuestMemory::of(std::move(list));
}

std::vector<std::byte> pattern(std::size_t size) {
    std::vector<std::byte> data(size);
    for (std::size_t i = 0; i < size; ++i) {
        data[i] = static_cast<std::byte>(i * 31 + 7);
    }
    return data;
}

class FileOfPages {
public:
    explicit FileOfPages(std::uint64_t pages) : fd_(::memfd_create("pages", MFD_CLOEXEC)) {
        for (std::uint64_t page = 0; page < pages; ++page) {
            const std::vector<std::byte> bytes(kPageSize, static_cast<std::byte>(page + 1));
            EXPECT_TRUE(ok(write_all_at(fd_.get(), bytes, page * kPageSize, "pages")));
        }
    }
    [[nodiscard]] int get() const { return fd_.get(); }

private:
    UniqueFd fd_;
};

struct NoOrigin final : PageOrigin {
    [[nodiscard]] std::string_view name() const override { return "none"; }
    Status read_entries(BlockId /*id*/, std::uint64_t /*first*/, std::span<Entry> /*out*/) const override { return {}; }
    Status read_data(BlockId /*id*/, std::uint64_t /*first*/, std::span<std::byte> /*out*/) const override {
        return {};
    }
};

TEST(MemoryBlock, LargeOnesStartAtAHugePageInTheHost) {
    for (const std::uint64_t size : {kHugePageSize, 3 * kHugePageSize, 3 * kHugePageSize + kPageSize}) {
        for (const PagePolicy policy : {PagePolicy::automatic, PagePolicy::small_pages, PagePolicy::huge_pages}) {
            const auto made = MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, size}, policy);
            ASSERT_TRUE(ok(made));
            EXPECT_EQ(reinterpret_cast<std::uintptr_t>(made->host()) % kHugePageSize, 0U);
            EXPECT_EQ(made->bytes().size(), size);
        }
    }
    const auto shared = MemoryBlock::memfd({BlockId::ram_low, Gpa{0}, kHugePageSize});
    ASSERT_TRUE(ok(shared));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(shared->host()) % kHugePageSize, 0U);
}

TEST(MemoryBlock, StartsAsZerosToTheLastByte) {
    for (const auto& made : {MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, 3 * kPageSize}, PagePolicy::automatic),
                             MemoryBlock::memfd({BlockId::ram_low, Gpa{0}, 3 * kPageSize})}) {
        ASSERT_TRUE(ok(made));
        EXPECT_TRUE(std::ranges::all_of(made->bytes(), [](std::byte byte) { return byte == std::byte{0}; }));
        made->bytes().back() = std::byte{1};
        EXPECT_EQ(made->page(2).back(), std::byte{1});
    }
}

TEST(MemoryBlock, ImpossibleSizesAreErrors) {
    for (const std::uint64_t size :
         {std::uint64_t{0}, kMax - kPageSize + 1, kMax - kHugePageSize + 1, std::uint64_t{1} << 62}) {
        EXPECT_TRUE(fails(MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, size}, PagePolicy::automatic),
                          ErrorKind::system, "mmap"))
            << size;
        EXPECT_FALSE(MemoryBlock::memfd({BlockId::ram_low, Gpa{0}, size})) << size;
    }
}

TEST(MemoryBlock, StaysWhereItIsWhenMoved) {
    MemoryBlock a = block(BlockId::ram_low, 0, 2 * kPageSize);
    const std::byte* host = a.host();
    a.set_type(1, PageType::free);
    const MemoryBlock b = std::move(a);
    EXPECT_EQ(b.host(), host);
    EXPECT_EQ(b.types().get(1), PageType::free);
}

TEST(MemoryBlock, OfASnapshotShowsItsFileAndNeverWritesToIt) {
    const FileOfPages file(4);
    const auto made = MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, 3 * kPageSize}), file.get(),
                                            kPageSize, nullptr);
    ASSERT_TRUE(ok(made));
    EXPECT_EQ(made->backing(), MemoryBlock::Backing::snapshot);
    for (std::uint64_t page = 0; page < 3; ++page) {
        EXPECT_EQ(made->page(page)[0], static_cast<std::byte>(page + 2));
    }
    made->bytes()[0] = std::byte{0xAA};
    std::array<std::byte, 1> in_file{};
    ASSERT_TRUE(ok(read_exactly_at(file.get(), in_file, kPageSize, "file")));
    EXPECT_EQ(in_file[0], std::byte{2});
    EXPECT_TRUE(
        fails(MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, kPageSize}), file.get(), 17, nullptr),
              ErrorKind::system));
    EXPECT_TRUE(fails(MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, kPageSize}), -1, 0, nullptr),
                      ErrorKind::system));
}

TEST(MemoryBlock, OverlayIsZerosExactlyWhereItWasAsked) {
    const FileOfPages file(4);
    auto made =
        MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, 4 * kPageSize}), file.get(), 0, nullptr);
    ASSERT_TRUE(ok(made));
    made->bytes()[kPageSize] = std::byte{0x77};
    ASSERT_TRUE(ok(made->overlay_anonymous(1, 2)));
    EXPECT_EQ(made->page(0).back(), std::byte{1});
    EXPECT_EQ(made->page(1).front(), std::byte{0});
    EXPECT_EQ(made->page(2).back(), std::byte{0});
    EXPECT_EQ(made->page(3).front(), std::byte{4});
    made->bytes()[2 * kPageSize] = std::byte{9};
    EXPECT_EQ(made->page(2).front(), std::byte{9});
}

TEST(MemoryBlock, OverlayOutsideIsRefused) {
    MemoryBlock made = block(BlockId::ram_low, 0, 4 * kPageSize);
    for (const auto& [first, count] :
         {std::pair{std::uint64_t{4}, std::uint64_t{1}}, {3, 2}, {0, 5}, {5, 0}, {1, kMax}, {kMax, 1}, {kMax, kMax}}) {
        EXPECT_TRUE(fails(made.overlay_anonymous(first, count), ErrorKind::invalid)) << first << ' ' << count;
    }
}

TEST(MemoryBlock, KeepsItsOriginPinnedAsLongAsItLives) {
    const FileOfPages file(1);
    auto origin = std::make_shared<NoOrigin>();
    const std::weak_ptr<NoOrigin> watch = origin;
    {
        const auto made = MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, kPageSize}), file.get(),
                                                0, std::move(origin));
        ASSERT_TRUE(ok(made));
        EXPECT_FALSE(watch.expired());
        EXPECT_EQ(made->origin(), watch.lock().get());
    }
    EXPECT_TRUE(watch.expired());
}

TEST(MemoryBlock, MemfdIsTheSameMemoryInEveryMapping) {
    const auto made = MemoryBlock::memfd({BlockId::ram_high, Gpa{1ULL << 32}, 2 * kPageSize});
    ASSERT_TRUE(ok(made));
    const auto other = Mapping::of_file(made->memfd_fd(), 0, 2 * kPageSize, kPageSize, true);
    ASSERT_TRUE(ok(other));
    made->bytes()[kPageSize] = std::byte{5};
    EXPECT_EQ(other->bytes()[kPageSize], std::byte{5});
}

TEST(BlockId, NumbersOnDiskAndNamesAreTheseForGood) {
    EXPECT_EQ(static_cast<int>(BlockId::ram_low), 1);
    EXPECT_EQ(static_cast<int>(BlockId::ram_high), 2);
    EXPECT_EQ(static_cast<int>(BlockId::firmware), 16);
    EXPECT_EQ(static_cast<int>(BlockId::vmgenid), 32);
    const std::set<std::string_view> names = {name_of(BlockId::ram_low), name_of(BlockId::ram_high),
                                              name_of(BlockId::firmware), name_of(BlockId::vmgenid)};
    EXPECT_EQ(names.size(), 4U);
    EXPECT_EQ(name_of(static_cast<BlockId>(99)), "unknown");
}

TEST(GuestMemory, RefusesBadBlockLists) {
    EXPECT_TRUE(
        fails(memory_of(block(BlockId::ram_low, 0, 2 * kPageSize), block(BlockId::ram_high, kPageSize, kPageSize)),
              ErrorKind::invalid, "overlap"));
    EXPECT_TRUE(
        fails(memory_of(block(BlockId::ram_low, kPageSize, kPageSize), block(BlockId::ram_high, 0, 4 * kPageSize)),
              ErrorKind::invalid, "overlap"));
    EXPECT_TRUE(
        fails(memory_of(block(BlockId::ram_low, 0, kPageSize), block(BlockId::ram_low, 8 * kPageSize, kPageSize)),
              ErrorKind::invalid, "the same id"));
    EXPECT_TRUE(fails(memory_of(block(BlockId::ram_low, 17, kPageSize)), ErrorKind::invalid, "bad address or size"));
    EXPECT_TRUE(fails(memory_of(block(BlockId::ram_low, 0, 17)), ErrorKind::invalid, "bad address or size"));
    EXPECT_TRUE(fails(memory_of(block(BlockId::ram_low, kMax - kPageSize + 1, kPageSize)), ErrorKind::invalid));
    EXPECT_TRUE(ok(memory_of(block(BlockId::ram_low, kMax - 2 * kPageSize + 1, kPageSize))));
}

class TwoBlocks : public ::testing::Test {
protected:
    static constexpr std::uint64_t kSize = 2 * kPageSize;
    static constexpr std::uint64_t kSecond = 2 * kSize;  // a hole of kSize after the first; the third follows at once
    GuestMemory memory_ = *memory_of(block(BlockId::ram_low, 0, kSize), block(BlockId::ram_high, kSecond, kSize),
                                     block(BlockId::firmware, kSecond + kSize, kSize));
};

TEST_F(TwoBlocks, SpanReachesToTheLastByteOfItsBlockAndNoFurther) {
    EXPECT_EQ(memory_.span(Gpa{0}, kSize).value().size(), kSize);
    EXPECT_EQ(memory_.span(Gpa{kSize - 1}, 1).value().data(), memory_.blocks()[0].host() + kSize - 1);
    EXPECT_EQ(memory_.span(Gpa{kSecond}, 1).value().data(), memory_.blocks()[1].host());
    EXPECT_TRUE(ok(memory_.span(Gpa{5}, 0)));
    for (const auto& [at, size] : {std::pair{std::uint64_t{0}, kSize + 1},
                                   {kSize - 1, 2},
                                   {kSize, 1},
                                   {kSize, 0},
                                   {kSecond - 1, 1},
                                   {kSecond + kSize - 1, 2},
                                   {kSecond + 2 * kSize, 1},
                                   {1, kMax},
                                   {kMax, 1},
                                   {kMax, kMax},
                                   {0, kMax}}) {
        EXPECT_TRUE(fails(memory_.span(Gpa{at}, size), ErrorKind::invalid, "not within one memory block"))
            << at << ' ' << size;
    }
}

TEST_F(TwoBlocks, ReadAndWriteCrossIntoAnAdjacentBlock) {
    const auto data = pattern(100);
    const Gpa at{kSecond + kSize - 50};
    ASSERT_TRUE(ok(memory_.write(at, data)));
    EXPECT_TRUE(std::ranges::equal(memory_.blocks()[1].bytes().last(50), std::span(data).first(50)));
    EXPECT_TRUE(std::ranges::equal(memory_.blocks()[2].bytes().first(50), std::span(data).last(50)));
    std::vector<std::byte> back(100);
    ASSERT_TRUE(ok(memory_.read(at, back)));
    EXPECT_EQ(back, data);
}

TEST_F(TwoBlocks, AccessIntoTheHoleOrBeyondTheEndIsAnError) {
    std::vector<std::byte> data(2);
    for (const std::uint64_t at :
         {kSize - 1, kSize, kSecond - 1, kSecond + 2 * kSize - 1, kSecond + 2 * kSize, kMax - 2, kMax - 1, kMax}) {
        EXPECT_TRUE(fails(memory_.read(Gpa{at}, data), ErrorKind::invalid, "guest address")) << at;
        EXPECT_TRUE(fails(memory_.write(Gpa{at}, data), ErrorKind::invalid, "guest address")) << at;
    }
    EXPECT_TRUE(ok(memory_.read(Gpa{kSize - 2}, data)));
    EXPECT_TRUE(ok(memory_.read(Gpa{kSecond + 2 * kSize - 2}, data)));
}

TEST_F(TwoBlocks, AWriteThatFailsHasWrittenNothing) {
    const auto data = pattern(100);
    EXPECT_FALSE(memory_.write(Gpa{kSize - 50}, data));
    EXPECT_TRUE(std::ranges::all_of(memory_.blocks()[0].bytes(), [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST_F(TwoBlocks, LoadAndStoreOfPlainValues) {
    ASSERT_TRUE(ok(memory_.store(Gpa{kSecond + kSize - 4}, std::uint64_t{0x1122334455667788})));
    EXPECT_EQ(memory_.load<std::uint64_t>(Gpa{kSecond + kSize - 4}).value(), 0x1122334455667788U);
    EXPECT_EQ(memory_.load<std::uint8_t>(Gpa{kSecond + kSize}).value(), 0x44);
    EXPECT_FALSE(memory_.load<std::uint64_t>(Gpa{kSize - 4}));
    EXPECT_FALSE(memory_.store(Gpa{kMax - 3}, std::uint64_t{1}));
}

TEST_F(TwoBlocks, FindsBlocksById) {
    EXPECT_EQ(memory_.find(BlockId::ram_high), &memory_.blocks()[1]);
    EXPECT_EQ(memory_.find(BlockId::vmgenid), nullptr);
    EXPECT_EQ(GuestMemory().find(BlockId::ram_low), nullptr);
}

TEST(GuestMemory, EmptyOneHasNothingToRead) {
    const GuestMemory memory;
    std::vector<std::byte> data(1);
    EXPECT_FALSE(memory.read(Gpa{0}, data));
    EXPECT_FALSE(memory.span(Gpa{0}, 0));
}

TEST(PageTypes, StartNormalAndUntouched) {
    const PageTypes types = PageTypes::of(3).value();
    for (std::uint64_t page = 0; page < 5; ++page) {
        EXPECT_EQ(types.get(page), PageType::normal);
    }
    EXPECT_FALSE(types.touched());
    EXPECT_EQ(PageTypes::of(0).value().get(0), PageType::normal);
}

TEST(PageTypes, KeepEachPagesTypeApart) {
    PageTypes types = PageTypes::of(4).value();
    types.set(1, PageType::balloon);
    types.set(3, PageType::swapped);
    EXPECT_EQ(types.get(0), PageType::normal);
    EXPECT_EQ(types.get(1), PageType::balloon);
    EXPECT_EQ(types.get(2), PageType::normal);
    EXPECT_EQ(types.get(3), PageType::swapped);
    EXPECT_TRUE(types.touched());
    types.set(1, PageType::normal);
    EXPECT_EQ(types.get(1), PageType::normal);
    EXPECT_TRUE(types.touched());
}

TEST(PageTypes, IgnorePagesThatAreNotThereAndNormalOnesThatAlwaysWere) {
    PageTypes types = PageTypes::of(4).value();
    types.set(4, PageType::free);
    types.set(kMax, PageType::free);
    types.set(2, PageType::normal);
    EXPECT_FALSE(types.touched());
}

}  // namespace
}  // namespace snapvm
