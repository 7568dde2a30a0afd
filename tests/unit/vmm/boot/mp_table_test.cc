// SPDX-License-Identifier: Apache-2.0
// The MultiProcessor table, read back as a kernel reads it.
#include "vmm/boot/mp_table.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>
#include <span>

#include "tests/unit/vmm/boot/acpi_reader.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

using test::get;
using test::sum;

class MpTable : public ::testing::TestWithParam<std::uint32_t> {};

TEST_P(MpTable, NamesProcessorsAndPins) {
    const std::vector<std::byte> bytes = mp_table(GetParam());
    const std::span<const std::byte> all(bytes);
    // It is in the reserved range, and nothing else is.
    EXPECT_GE(platform::kMpTable, platform::kLowReserved);
    EXPECT_LE(platform::kMpTable + bytes.size(), platform::kOneMiB);
    EXPECT_EQ(std::memcmp(bytes.data(), "_MP_", 4), 0);
    EXPECT_EQ(sum(all.first(16)), 0U);
    const auto at = get<std::uint32_t>(all, 4) - platform::kMpTable.value;
    ASSERT_LT(at, bytes.size());
    const auto table = all.subspan(at);
    EXPECT_EQ(std::memcmp(table.data(), "PCMP", 4), 0);
    ASSERT_EQ(get<std::uint16_t>(table, 4), table.size());
    EXPECT_EQ(sum(table), 0U);
    EXPECT_EQ(get<std::uint32_t>(table, 36), 0xFEE00000U);

    std::set<unsigned> processors, ids;
    std::map<unsigned, unsigned> pins;
    unsigned boot_processors = 0, entries = 0, local = 0;
    std::size_t next = 44;
    while (next < table.size()) {
        const auto kind = get<std::uint8_t>(table, next);
        if (kind == 0) {
            processors.insert(get<std::uint8_t>(table, next + 1));
            EXPECT_EQ(get<std::uint8_t>(table, next + 3) & 1, 1);
            boot_processors += get<std::uint8_t>(table, next + 3) >> 1 & 1U;
        } else if (kind == 2) {
            ids.insert(get<std::uint8_t>(table, next + 1));
            EXPECT_EQ(get<std::uint32_t>(table, next + 4), 0xFEC00000U);
        } else if (kind == 3) {
            EXPECT_TRUE(ids.contains(get<std::uint8_t>(table, next + 6)));
            pins[get<std::uint8_t>(table, next + 5)] = get<std::uint8_t>(table, next + 7);
        } else if (kind == 4) {
            ++local;
        } else {
            EXPECT_EQ(kind, 1);
            EXPECT_EQ(std::memcmp(table.data() + next + 2, "ISA   ", 6), 0);
        }
        next += kind == 0 ? 20 : 8;
        ++entries;
    }
    EXPECT_EQ(next, table.size());
    EXPECT_EQ(entries, get<std::uint16_t>(table, 34));
    EXPECT_EQ(processors.size(), GetParam());
    EXPECT_EQ(*processors.rbegin(), GetParam() - 1);
    EXPECT_EQ(boot_processors, 1U);
    EXPECT_FALSE(processors.contains(*ids.begin())) << "the IOAPIC has a processor's id";
    EXPECT_EQ(local, 2U);
    ASSERT_EQ(pins.size(), platform::kIoApicPins);
    for (const auto& [interrupt, pin] : pins) {
        EXPECT_EQ(interrupt, pin);
    }
}

INSTANTIATE_TEST_SUITE_P(Processors, MpTable, ::testing::Values(1, 2, 64));

}  // namespace
}  // namespace snapvm
