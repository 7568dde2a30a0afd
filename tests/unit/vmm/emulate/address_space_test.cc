// SPDX-License-Identifier: Apache-2.0
// Translations and access rights, in every paging mode, by the manual's tables.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "vmm/emulate/address_space.h"

namespace snapvm::emulate {
namespace {

constexpr std::uint64_t kMemory = 8 << 20;
constexpr std::uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40, kLarge = 0x80;
constexpr std::uint64_t kNoExecute = 1ULL << 63;
constexpr std::uint64_t kPaging = 1ULL << 31, kWriteProtect = 1ULL << 16;
constexpr std::uint64_t kPae = 1 << 5, kLargePages = 1 << 4, kFiveLevels = 1 << 12, kSmep = 1 << 20, kSmap = 1 << 21;
constexpr std::uint64_t kLongMode = 1 << 10, kNx = 1 << 11;
constexpr std::uint64_t kPage = 0x400000;  // what most tests map
constexpr std::uint64_t kLinear = 0x7F12'3456'7000;

class Paging : public ::testing::Test {
protected:
    Paging() {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kMemory}, PagePolicy::small_pages));
        memory = *GuestMemory::of(std::move(blocks));
    }
    void put(std::uint64_t at, std::uint64_t entry) { ASSERT_TRUE(memory.store(Gpa{at}, entry).has_value()); }
    std::uint64_t get(std::uint64_t at) { return *memory.load<std::uint64_t>(Gpa{at}); }
    static std::uint64_t slot(std::uint64_t table, std::uint64_t linear, int level) {
        return table + (linear >> (12 + 9 * (level - 1)) & 511) * 8;
    }
    // kLinear to kPage by tables at 0x1000, 0x2000, … from the top, `leaf` the last entry's rights.
    void map_long(int levels, std::uint64_t leaf, std::uint64_t upper = kPresent | kWritable | kUser) {
        mode = {.cr0 = kPaging | kWriteProtect | 1,
                .cr3 = 0x1000,
                .cr4 = kPae | (levels == 5 ? kFiveLevels : 0),
                .efer = kLongMode | kNx};
        std::uint64_t table = 0x1000;
        for (int level = levels; level > 1; --level, table += 0x1000) {
            put(slot(table, kLinear, level), (table + 0x1000) | upper);
        }
        leaf_at = slot(table, kLinear, 1);
        put(leaf_at, kPage | leaf);
    }
    std::optional<std::uint32_t> fault(Access access) {
        std::array<std::byte, 1> byte{};
        AddressSpace space(memory, mode);
        const auto done = access.write ? space.write(kLinear, byte, access) : space.read(kLinear, byte, access);
        return done ? std::nullopt : std::optional(done.error().error_code);
    }

    GuestMemory memory;
    PagingMode mode;
    std::uint64_t leaf_at = 0;
};

TEST_F(Paging, WithoutItAddressesArePhysical) {
    EXPECT_EQ(AddressSpace(memory, mode).look_up(0x1'0000'1234)->value, 0x1234U);
}

TEST_F(Paging, FourAndFiveLevels) {
    for (const int levels : {4, 5}) {
        map_long(levels, kPresent | kWritable);
        const AddressSpace space(memory, mode);
        EXPECT_EQ(space.look_up(kLinear + 0x123)->value, kPage + 0x123);
        const auto missing = space.look_up(kLinear + 0x1000);
        ASSERT_FALSE(missing.has_value());
        EXPECT_EQ(missing.error().address, kLinear + 0x1000);
    }
}

TEST_F(Paging, LargePages) {
    map_long(4, 0);
    put(slot(0x3000, kLinear, 2), 0x200000 | kPresent | kLarge | 1 << 12);  // bit 12 is PAT there
    EXPECT_EQ(AddressSpace(memory, mode).look_up(kLinear)->value, 0x200000 + (kLinear & 0x1FFFFF));
    put(slot(0x2000, kLinear, 3), 0x1'4000'0000 | kPresent | kLarge);
    EXPECT_EQ(AddressSpace(memory, mode).look_up(kLinear)->value, 0x1'4000'0000 + (kLinear & 0x3FFF'FFFF));
}

TEST_F(Paging, ThirtyTwoBits) {
    mode = {.cr0 = kPaging | 1, .cr3 = 0x1000, .cr4 = kLargePages, .efer = 0};
    ASSERT_TRUE(memory.store(Gpa{0x1000 + 4 * 0x300}, std::uint32_t{0x2003}).has_value());
    ASSERT_TRUE(memory.store(Gpa{0x2000 + 4 * 5}, std::uint32_t{kPage | 3}).has_value());
    ASSERT_TRUE(memory.store(Gpa{0x1000 + 4 * 0x301}, std::uint32_t{0x0040'0083}).has_value());
    const AddressSpace two(memory, mode);
    EXPECT_EQ(two.look_up(0xC000'5678)->value, kPage + 0x678);
    EXPECT_EQ(two.look_up(0xC040'5678)->value, 0x40'5678U);

    mode = {.cr0 = kPaging | 1, .cr3 = 0x3020, .cr4 = kPae, .efer = 0};
    put(0x3020 + 8 * 3, 0x4000 | kPresent);  // no rights there, and none taken away
    put(0x4000, 0x5000 | kPresent | kWritable | kUser);
    put(0x5000 + 8 * 5, kPage | kPresent | kWritable | kUser);
    AddressSpace three(memory, mode);
    EXPECT_EQ(three.look_up(0xC000'5678)->value, kPage + 0x678);
    std::array<std::byte, 4> word{};
    EXPECT_TRUE(three.write(0xC000'5678, word, {.write = true, .user = true}).has_value());
    EXPECT_EQ(get(0x3020 + 8 * 3), 0x4000 | kPresent);
}

TEST_F(Paging, RightsOfTheKernel) {
    map_long(4, kPresent);
    EXPECT_EQ(fault({}), std::nullopt);
    EXPECT_EQ(fault({.write = true}), 3U);
    mode.cr0 &= ~kWriteProtect;
    EXPECT_EQ(fault({.write = true}), std::nullopt);
    map_long(4, kPresent | kWritable | kUser);
    EXPECT_EQ(fault({.write = true}), std::nullopt);
    EXPECT_EQ(fault({.fetch = true}), std::nullopt);
    mode.cr4 |= kSmep;
    EXPECT_EQ(fault({.fetch = true}), 0x11U);
    mode.cr4 |= kSmap;
    EXPECT_EQ(fault({.user_pages_open = false}), 1U);
    EXPECT_EQ(fault({.user_pages_open = true}), std::nullopt);
    map_long(4, kPresent | kNoExecute);
    EXPECT_EQ(fault({.fetch = true}), 0x11U);
    EXPECT_EQ(fault({}), std::nullopt);
}

TEST_F(Paging, RightsOfPrograms) {
    map_long(4, kPresent | kWritable | kUser);
    EXPECT_EQ(fault({.write = true, .user = true}), std::nullopt);
    map_long(4, kPresent | kUser);
    EXPECT_EQ(fault({.write = true, .user = true}), 7U);
    EXPECT_EQ(fault({.user = true}), std::nullopt);
    map_long(4, kPresent | kWritable);
    EXPECT_EQ(fault({.user = true}), 5U);
    // What one level withholds no other gives.
    map_long(4, kPresent | kWritable | kUser, kPresent | kUser);
    EXPECT_EQ(fault({.write = true, .user = true}), 7U);
    map_long(4, 0);
    EXPECT_EQ(fault({.user = true}), 4U);
    EXPECT_EQ(fault({.write = true}), 2U);
}

TEST_F(Paging, AccessedAndDirtyAreSetByAccessesOnly) {
    map_long(4, kPresent | kWritable);
    (void)AddressSpace(memory, mode).look_up(kLinear);
    EXPECT_EQ(get(leaf_at), kPage | kPresent | kWritable);
    EXPECT_EQ(fault({}), std::nullopt);
    EXPECT_EQ(get(leaf_at), kPage | kPresent | kWritable | kAccessed);
    EXPECT_NE(get(slot(0x1000, kLinear, 4)) & kAccessed, 0U);
    EXPECT_EQ(fault({.write = true}), std::nullopt);
    EXPECT_EQ(get(leaf_at), kPage | kPresent | kWritable | kAccessed | kDirty);
    EXPECT_EQ(get(slot(0x1000, kLinear, 4)) & kDirty, 0U);
}

// The second page of an access is not there: nothing of the first is written.
TEST_F(Paging, AccessesAreAllOrNothing) {
    map_long(4, kPresent | kWritable);
    AddressSpace space(memory, mode);
    const std::array<std::byte, 16> data = {std::byte{1}};
    const auto done = space.write(kLinear + 0xFF8, data, {.write = true});
    ASSERT_FALSE(done.has_value());
    EXPECT_EQ(done.error().address, kLinear + 0x1000);
    EXPECT_EQ(get(kPage + 0xFF8), 0U);
    put(leaf_at + 8, 0x500000 | kPresent | kWritable);
    EXPECT_TRUE(space.write(kLinear + 0xFFF, data, {.write = true}).has_value());
    EXPECT_EQ(*memory.load<std::uint8_t>(Gpa{kPage + 0xFFF}), 1);
    std::array<std::byte, 32> peeked{};
    EXPECT_EQ(space.peek(kLinear + 0x1FF8, peeked), 8U);
    EXPECT_TRUE(space.span(kLinear + 0xFF8, 16, {})->bytes.empty());
    EXPECT_EQ(space.span(kLinear + 0xFF0, 16, {})->at.value, kPage + 0xFF0);
}

// Tables may be anywhere, in circles, or beyond memory. A walk must end after one step for each
// level.
TEST_F(Paging, HostileTables) {
    mode = {.cr0 = kPaging | 1, .cr3 = 0x1000, .cr4 = kPae, .efer = kLongMode};
    for (std::uint64_t i = 0; i < 512; ++i) {
        put(0x1000 + 8 * i, 0x1000 | kPresent | kWritable);
    }
    EXPECT_EQ(AddressSpace(memory, mode).look_up(kLinear + 5)->value, 0x1005U);
    mode.cr3 = 0x000F'FFFF'FFFF'F000;
    EXPECT_FALSE(AddressSpace(memory, mode).look_up(kLinear).has_value());
    map_long(4, kPresent | kWritable);
    put(leaf_at, 0x000F'FFFF'FFFF'F000 | kPresent | kWritable);
    AddressSpace space(memory, mode);
    std::array<std::byte, 8> bytes{};
    EXPECT_TRUE(space.read(kLinear, bytes, {}).has_value());  // as the bus: all ones
    EXPECT_EQ(bytes[0], std::byte{0xFF});
    EXPECT_TRUE(space.write(kLinear, bytes, {.write = true}).has_value());
    EXPECT_EQ(space.peek(kLinear, bytes), 0U);
}

}  // namespace
}  // namespace snapvm::emulate
