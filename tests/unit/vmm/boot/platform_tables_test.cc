// SPDX-License-Identifier: Apache-2.0
// What firmware tells a guest: the memory map and the ACPI tables, read back as a guest reads them.
#include <set>

#include "tests/support/result_matchers.h"
#include "tests/unit/vmm/boot/acpi_reader.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/memory_map.h"
#include "vmm/config/machine_config.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

using test::get;
using test::sum;
using test::text;
using Type = MemoryMapEntry::Type;

std::vector<MemoryMapEntry> map_of(std::uint64_t memory) {
    MachineConfig config;
    config.memory_bytes = memory;
    return memory_map(config.blocks());
}

TEST(MemoryMap, CoversEveryBlockExactly) {
    for (const std::uint64_t memory :
         {2ULL << 20, 256ULL << 20, 3ULL << 30, (3ULL << 30) + (2ULL << 20), 5ULL << 30, 1ULL << 40}) {
        const auto map = map_of(memory);
        std::uint64_t ram = 0;
        for (std::size_t i = 0; i < map.size(); ++i) {
            EXPECT_GT(map[i].size, 0U);
            EXPECT_LE(map[i].size, 1ULL << 41);
            for (std::size_t j = 0; j < i; ++j) {
                EXPECT_TRUE(map[i].base + map[i].size <= map[j].base || map[j].base + map[j].size <= map[i].base);
            }
            ram += map[i].type == Type::ram ? map[i].size : 0;
        }
        EXPECT_EQ(ram, memory - (0x100000 - 0x9FC00));
    }
}

TEST(MemoryMap, ReservesThePcsAreaAndNamesTheTables) {
    const auto map = map_of(5ULL << 30);
    ASSERT_EQ(map.size(), 6U);
    const std::vector<std::tuple<std::uint64_t, std::uint64_t, Type>> expected = {
        {0, 0x9FC00, Type::ram},           {0x9FC00, 0x60400, Type::reserved},
        {0x100000, 0xBFF00000, Type::ram}, {1ULL << 32, 2ULL << 30, Type::ram},
        {0xE0000000, 0x10000, Type::acpi}, {0xE0010000, 0x1000, Type::reserved}};
    for (std::size_t i = 0; i < map.size(); ++i) {
        EXPECT_EQ(std::tuple(map[i].base.value, map[i].size, map[i].type), expected[i]) << i;
    }
}

class Acpi : public ::testing::TestWithParam<std::uint32_t> {
protected:
    /// The table at a guest address: inside the firmware block, whole, and with a good checksum.
    [[nodiscard]] std::span<const std::byte> table(std::uint64_t address) const {
        const auto found = test::table_at(all_, address);
        EXPECT_EQ(sum(found), 0U);
        EXPECT_EQ(text(found, 10, 6), "SNAPVM");
        return found;
    }
    std::vector<std::byte> all_ = acpi_tables({.cpus = GetParam(), .virtio_devices = 16}).value();
};

TEST_P(Acpi, RootPointerIsAtTheStartWithBothChecksums) {
    EXPECT_LE(all_.size(), platform::kFirmwareSize);
    EXPECT_EQ(text(all_, 0, 8), "RSD PTR ");
    EXPECT_EQ(sum(std::span(all_).first(20)), 0U);
    EXPECT_EQ(get<std::uint32_t>(all_, 20), 36U);
    EXPECT_EQ(sum(std::span(all_).first(36)), 0U);
    EXPECT_EQ(get<std::uint8_t>(all_, 15), 2);
}

TEST_P(Acpi, EveryTableIsReachedWholeAndAlone) {
    const auto xsdt = table(get<std::uint64_t>(all_, 24));
    EXPECT_EQ(text(xsdt, 0, 4), "XSDT");
    ASSERT_EQ((xsdt.size() - 36) % 8, 0U);
    std::set<std::string> signatures;
    for (std::size_t at = 36; at < xsdt.size(); at += 8) {
        const auto next = table(get<std::uint64_t>(xsdt, at));
        EXPECT_TRUE(signatures.insert(text(next, 0, 4)).second);
        EXPECT_GE(next.data(), xsdt.data() + xsdt.size());
    }
    EXPECT_EQ(signatures, (std::set<std::string>{"APIC", "FACP"}));
    for (const auto& [signature, bytes] : test::all_tables(all_)) {
        EXPECT_EQ(sum(bytes), 0U) << signature;
    }
}

TEST_P(Acpi, MadtListsEachCpuAndTheIoapic) {
    const auto xsdt = table(get<std::uint64_t>(all_, 24));
    std::span<const std::byte> madt;
    for (std::size_t at = 36; at < xsdt.size(); at += 8) {
        if (const auto next = table(get<std::uint64_t>(xsdt, at)); text(next, 0, 4) == "APIC") {
            madt = next;
        }
    }
    ASSERT_FALSE(madt.empty());
    EXPECT_EQ(get<std::uint32_t>(madt, 36), 0xFEE00000U);
    EXPECT_EQ(get<std::uint32_t>(madt, 40), 0U);  // no 8259s
    std::uint32_t cpus = 0;
    std::uint32_t ioapics = 0;
    std::size_t at = 44;
    while (at < madt.size()) {
        const auto type = get<std::uint8_t>(madt, at);
        const auto length = get<std::uint8_t>(madt, at + 1);
        ASSERT_GE(length, 2);
        ASSERT_LE(at + length, madt.size());
        if (type == 0) {
            EXPECT_EQ(length, 8);
            EXPECT_EQ(get<std::uint8_t>(madt, at + 3), cpus);  // LAPIC ids are 0 to n - 1
            EXPECT_EQ(get<std::uint32_t>(madt, at + 4) & 1, 1U);
            ++cpus;
        } else if (type == 1) {
            EXPECT_EQ(length, 12);
            EXPECT_EQ(get<std::uint32_t>(madt, at + 4), 0xFEC00000U);
            EXPECT_EQ(get<std::uint32_t>(madt, at + 8), 0U);
            ++ioapics;
        }
        at += length;
    }
    EXPECT_EQ(at, madt.size());
    EXPECT_EQ(cpus, GetParam());
    EXPECT_EQ(ioapics, 1U);
}

INSTANTIATE_TEST_SUITE_P(Cpus, Acpi, ::testing::Values(1, 2, 4, platform::kMaxCpus));

}  // namespace
}  // namespace snapvm
