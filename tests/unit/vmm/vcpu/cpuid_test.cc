// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/cpuid.h"

#include <algorithm>
#include <cstdio>

#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

kvm_cpuid_entry2 entry(std::uint32_t leaf, std::uint32_t index, std::uint32_t eax, std::uint32_t ebx, std::uint32_t ecx,
                       std::uint32_t edx) {
    kvm_cpuid_entry2 out{};
    out.function = leaf;
    out.index = index;
    out.eax = eax;
    out.ebx = ebx;
    out.ecx = ecx;
    out.edx = edx;
    return out;
}

// A table as KVM gives it, with a host's own topology in it.
CpuidTable supported() {
    return {entry(0x0, 0, 0x1F, 1, 2, 3),
            entry(0x1, 0, 0x000A20F0, 0x07100800, 0xFEDA3203 & ~(1U << 24), 0x1F8BFBFF),
            entry(0x4, 0, 0x7C004121, 0x01C0003F, 0x3F, 0),
            entry(0x4, 3, 0, 0, 0, 0),
            entry(0x7, 0, 1, 0x219C97A9, 0x0040069C, 0x10),
            entry(0x7, 1, 0x10, 0, 0, 0),
            entry(0xB, 0, 1, 2, 0x100, 7),
            entry(0xB, 1, 4, 16, 0x201, 7),
            entry(0xD, 0, 0x207, 0x988, 0x988, 0),
            entry(0xD, 1, 0xF, 0, 0, 0),
            entry(0x1F, 0, 1, 2, 0x100, 7),
            entry(0x1F, 1, 4, 16, 0x201, 7),
            entry(0x40000001, 0, 0x01007EFB, 0, 0, 0),
            entry(0x80000001, 0, 0x000A20F0, 0x20000000, 0x00C001F3, 0x2FD3FBFF),
            entry(0x80000008, 0, 0x3030, 0x111ED205, 0x700F, 0),
            entry(0x8000001E, 0, 7, 0x103, 0x200, 0),
            entry(0x80000007, 0, 0, 0, 0, 0x100),
            entry(0x80000021, 0, 0x45, 0, 0, 0)};
}

const kvm_cpuid_entry2& find(const CpuidTable& table, std::uint32_t leaf, std::uint32_t index = 0) {
    static const kvm_cpuid_entry2 none{};
    const auto found =
        std::ranges::find_if(table, [&](const auto& e) { return e.function == leaf && e.index == index; });
    EXPECT_NE(found, table.end()) << leaf;
    return found == table.end() ? none : *found;
}

class Topology : public ::testing::TestWithParam<std::uint32_t> {};

TEST_P(Topology, IsOnePackageOfSingleThreadedCores) {
    const std::uint32_t cpus = GetParam();
    const std::uint32_t width = cpus == 1 ? 0 : cpus == 2 ? 1 : cpus == 3 || cpus == 4 ? 2 : 6;
    for (std::uint32_t index = 0; index < cpus; ++index) {
        const CpuidTable table = cpuid_for_vcpu(supported(), index, cpus, true);
        const auto& one = find(table, 0x1);
        EXPECT_EQ(one.ebx >> 24, index);
        EXPECT_EQ(one.ebx >> 16 & 0xFF, cpus);
        EXPECT_EQ(one.ebx & 0xFFFF, 0x0800U);
        EXPECT_EQ(one.edx >> 28 & 1, cpus > 1 ? 1U : 0U);
        EXPECT_EQ(one.ecx >> 31, 1U);
        EXPECT_EQ(find(table, 0x4).eax >> 26, cpus - 1);
        EXPECT_EQ(find(table, 0x4).eax & 0x03FFFFFF, 0x7C004121U & 0x03FFFFFF);
        EXPECT_EQ(find(table, 0x4, 3).eax, 0U);
        for (const std::uint32_t leaf : {0xBU, 0x1FU}) {
            const auto& thread = find(table, leaf, 0);
            EXPECT_EQ(thread.eax, 0U);
            EXPECT_EQ(thread.ebx, 1U);
            EXPECT_EQ(thread.ecx, 0x100U);
            EXPECT_EQ(thread.edx, index);
            const auto& core = find(table, leaf, 1);
            EXPECT_EQ(core.eax, width);
            EXPECT_EQ(core.ebx, cpus);
            EXPECT_EQ(core.ecx, 0x201U);
            EXPECT_EQ(core.edx, index);
        }
        EXPECT_EQ(find(table, 0x80000008).ecx, (cpus - 1) | width << 12);
        EXPECT_EQ(find(table, 0x8000001E).eax, index);
        EXPECT_EQ(find(table, 0x8000001E).ebx, index);  // a core of its own, one thread
        EXPECT_EQ(find(table, 0x8000001E).ecx, 0U);     // one node
    }
}
INSTANTIATE_TEST_SUITE_P(Cpus, Topology, ::testing::Values(1, 2, 3, 4, 64));

// Linux 6.3 and later list leaf 0xB with its first level only.
TEST(CpuidForVcpu, HasACoreLevelWhereKvmListsNone) {
    CpuidTable table = supported();
    std::erase_if(table, [](const auto& e) { return (e.function == 0xB || e.function == 0x1F) && e.index == 1; });
    table = cpuid_for_vcpu(table, 2, 4, true);
    for (const std::uint32_t leaf : {0xBU, 0x1FU}) {
        EXPECT_EQ(find(table, leaf, 1).ebx, 4U);
        EXPECT_EQ(find(table, leaf, 1).ecx, 0x201U);
        EXPECT_EQ(find(table, leaf, 1).edx, 2U);
        EXPECT_NE(find(table, leaf, 1).flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0U);
    }
    EXPECT_EQ(table.size(), supported().size());
}

TEST(CpuidForVcpu, InventsNoLeaf) {
    const CpuidTable table = cpuid_for_vcpu({entry(0x0, 0, 1, 0, 0, 0)}, 0, 4, true);
    EXPECT_EQ(table.size(), 1U);
}

TEST(CpuidForVcpu, ShowsTheDeadlineTimerWhereKvmHasIt) {
    EXPECT_EQ(find(cpuid_for_vcpu(supported(), 0, 1, true), 0x1).ecx >> 24 & 1, 1U);
    EXPECT_EQ(find(cpuid_for_vcpu(supported(), 0, 1, false), 0x1).ecx >> 24 & 1, 0U);
}

TEST(CheckCpuid, WhatWeShowCanAlwaysBeRestoredHere) {
    for (const std::uint32_t cpus : {1U, 2U, 4U, 64U}) {
        EXPECT_TRUE(ok(check_cpuid(cpuid_for_vcpu(supported(), cpus - 1, cpus, true), supported())));
    }
}

// CR4 decides on these two while the guest runs; they are no features.
TEST(CheckCpuid, OsXsaveAndOsPkeAreIgnored) {
    CpuidTable saved = supported();
    saved[1].ecx |= 1U << 27;
    saved[4].ecx |= 1U << 4;
    CpuidTable host = supported();
    host[1].ecx &= ~(1U << 27);
    host[4].ecx &= ~(1U << 4);
    EXPECT_TRUE(ok(check_cpuid(saved, host)));
}

TEST(CheckCpuid, EachMissingFeatureIsNamed) {
    const struct {
        std::size_t row;
        std::uint32_t kvm_cpuid_entry2::* field;
        const char* text;
    } rows[] = {
        {1, &kvm_cpuid_entry2::ecx, "leaf 0x1 ecx"},         {1, &kvm_cpuid_entry2::edx, "leaf 0x1 edx"},
        {4, &kvm_cpuid_entry2::ebx, "leaf 0x7 ebx"},         {4, &kvm_cpuid_entry2::ecx, "leaf 0x7 ecx"},
        {4, &kvm_cpuid_entry2::edx, "leaf 0x7 edx"},         {5, &kvm_cpuid_entry2::eax, "leaf 0x7 eax"},
        {8, &kvm_cpuid_entry2::eax, "leaf 0xd eax"},         {9, &kvm_cpuid_entry2::eax, "leaf 0xd eax"},
        {12, &kvm_cpuid_entry2::eax, "leaf 0x40000001 eax"}, {13, &kvm_cpuid_entry2::ecx, "leaf 0x80000001 ecx"},
        {13, &kvm_cpuid_entry2::edx, "leaf 0x80000001 edx"}, {14, &kvm_cpuid_entry2::ebx, "leaf 0x80000008 ebx"},
        {16, &kvm_cpuid_entry2::edx, "leaf 0x80000007 edx"}, {17, &kvm_cpuid_entry2::eax, "leaf 0x80000021 eax"}};
    for (const auto& row : rows) {
        CpuidTable host = supported();
        std::uint32_t& field = host[row.row].*(row.field);
        const std::uint32_t lowest = field & (~field + 1);
        field &= ~lowest;
        const Status status = check_cpuid(supported(), host);
        EXPECT_TRUE(fails(status, ErrorKind::unsupported, row.text)) << row.text;
        char bits[16];
        std::snprintf(bits, sizeof bits, "0x%08x", lowest);
        EXPECT_TRUE(fails(status, ErrorKind::unsupported, bits)) << row.text;
        EXPECT_TRUE(ok(check_cpuid(host, supported())));  // more features than needed are fine
    }
}

TEST(CheckCpuid, ALeafTheHostDoesNotHaveAtAllIsAllFeaturesMissing) {
    CpuidTable host = supported();
    std::erase_if(host, [](const auto& e) { return e.function == 0x7; });
    EXPECT_TRUE(fails(check_cpuid(supported(), host), ErrorKind::unsupported, "leaf 0x7 ebx"));
}

TEST(CheckCpuid, IdsAndTopologyAreNoPromise) {
    CpuidTable host = supported();
    host[0] = entry(0x0, 0, 0xD, 9, 9, 9);
    host[1].eax = 0x000906EA;
    host[1].ebx = 0;
    EXPECT_TRUE(ok(check_cpuid(supported(), host)));
}

}  // namespace
}  // namespace snapvm
