// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/cpuid.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <string>

namespace snapvm {
namespace {

constexpr std::uint32_t kTscDeadlineBit = 1U << 24;   // leaf 1 ECX
constexpr std::uint32_t kHypervisorBit = 1U << 31;    // leaf 1 ECX
constexpr std::uint32_t kHyperThreadingBit = 1U << 28;  // leaf 1 EDX: the logical processor count is valid
constexpr std::uint32_t kOsXsaveBit = 1U << 27;       // leaf 1 ECX: mirrors CR4, not a feature
constexpr std::uint32_t kOsPkeBit = 1U << 4;          // leaf 7 ECX: mirrors CR4, too

void set_leaf_b(kvm_cpuid_entry2& entry, std::uint32_t index, std::uint32_t cpus) {
    constexpr std::uint32_t kThreadLevel = 1;
    constexpr std::uint32_t kCoreLevel = 2;
    entry.edx = index;
    entry.eax = entry.ebx = 0;
    entry.ecx = entry.index;
    if (entry.index == 0) {
        entry.ebx = 1;
        entry.ecx |= kThreadLevel << 8;
    } else if (entry.index == 1) {
        entry.eax = static_cast<std::uint32_t>(std::bit_width(cpus - 1));
        entry.ebx = cpus;
        entry.ecx |= kCoreLevel << 8;
    }
}

// Newer kernels list the first level of the topology leaves only. Adds an entry for the level of
// the cores.
void add_core_level(CpuidTable& table, std::uint32_t leaf) {
    const auto level = [&](std::uint32_t index) {
        return std::ranges::find_if(table,
                                    [&](const kvm_cpuid_entry2& e) { return e.function == leaf && e.index == index; });
    };
    if (const auto first = level(0); first != table.end() && level(1) == table.end()) {
        kvm_cpuid_entry2 core = *first;
        core.index = 1;
        core.flags |= KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        table.insert(first + 1, core);
    }
}

// The registers that are sets of feature bits. The others (ids, sizes, topology) promise no feature
// to the guest.
struct FeatureRegister {
    std::uint32_t leaf;
    std::uint32_t index;
    std::uint32_t kvm_cpuid_entry2::* field;
    const char* name;
    std::uint32_t ignored;
};
constexpr std::array<FeatureRegister, 14> kFeatureRegisters = {{
    {0x1, 0, &kvm_cpuid_entry2::ecx, "ecx", kTscDeadlineBit | kHypervisorBit | kOsXsaveBit},
    {0x1, 0, &kvm_cpuid_entry2::edx, "edx", kHyperThreadingBit},
    {0x7, 0, &kvm_cpuid_entry2::ebx, "ebx", 0},
    {0x7, 0, &kvm_cpuid_entry2::ecx, "ecx", kOsPkeBit},
    {0x7, 0, &kvm_cpuid_entry2::edx, "edx", 0},
    {0x7, 1, &kvm_cpuid_entry2::eax, "eax", 0},
    {0xD, 0, &kvm_cpuid_entry2::eax, "eax", 0},
    {0xD, 1, &kvm_cpuid_entry2::eax, "eax", 0},
    {0x40000001, 0, &kvm_cpuid_entry2::eax, "eax", 0},
    {0x80000001, 0, &kvm_cpuid_entry2::ecx, "ecx", 0},
    {0x80000001, 0, &kvm_cpuid_entry2::edx, "edx", 0},
    {0x80000007, 0, &kvm_cpuid_entry2::edx, "edx", 0},
    {0x80000008, 0, &kvm_cpuid_entry2::ebx, "ebx", 0},
    {0x80000021, 0, &kvm_cpuid_entry2::eax, "eax", 0},
}};

std::uint32_t value_of(std::span<const kvm_cpuid_entry2> table, const FeatureRegister& feature) {
    const auto found = std::ranges::find_if(table, [&](const kvm_cpuid_entry2& entry) {
        return entry.function == feature.leaf && entry.index == feature.index;
    });
    return found == table.end() ? 0 : (*found).*(feature.field);
}

}  // namespace

CpuidTable cpuid_for_vcpu(const CpuidTable& supported, std::uint32_t index, std::uint32_t cpus, bool tsc_deadline) {
    CpuidTable table = supported;
    add_core_level(table, 0xB);
    add_core_level(table, 0x1F);
    for (kvm_cpuid_entry2& entry : table) {
        switch (entry.function) {
            case 0x1:
                entry.ebx = (entry.ebx & 0x0000FFFF) | (cpus << 16) | (index << 24);
                entry.ecx |= kHypervisorBit | (tsc_deadline ? kTscDeadlineBit : 0);
                entry.edx = cpus > 1 ? entry.edx | kHyperThreadingBit : entry.edx & ~kHyperThreadingBit;
                break;
            case 0x4:  // Intel's caches: bits 31..26 cores in the package, minus one
                if ((entry.eax & 0x1F) != 0) {
                    entry.eax = (entry.eax & 0x03FFFFFF) | (std::min(cpus - 1, 63U) << 26);
                }
                break;
            case 0xB:
            case 0x1F: set_leaf_b(entry, index, cpus); break;
            case 0x80000008:  // AMD: ECX bits 7..0 cores minus one, 15..12 width of their ids
                entry.ecx = (cpus - 1) | (static_cast<std::uint32_t>(std::bit_width(cpus - 1)) << 12);
                break;
            case 0x8000001E:  // AMD: EBX bits 7..0 core id, 15..8 threads a core minus one; ECX nodes
                entry.eax = entry.ebx = index;
                entry.ecx = 0;
                break;
            default: break;
        }
    }
    return table;
}

bool shows_hyper_v(std::span<const kvm_cpuid_entry2> table) {
    constexpr std::uint32_t kInterfaceLeaf = 0x40000001;
    constexpr std::uint32_t kInterface = 0x31237648;  // "Hv#1"
    return std::ranges::any_of(table, [](const kvm_cpuid_entry2& entry) {
        return entry.function == kInterfaceLeaf && entry.eax == kInterface;
    });
}

Status check_cpuid(std::span<const kvm_cpuid_entry2> saved, std::span<const kvm_cpuid_entry2> supported) {
    for (const FeatureRegister& feature : kFeatureRegisters) {
        const std::uint32_t missing = value_of(saved, feature) & ~feature.ignored & ~value_of(supported, feature);
        if (missing != 0) {
            std::array<char, 128> text;
            std::snprintf(text.data(), text.size(),
                          "the snapshot's CPU has features that this host lacks (CPUID leaf 0x%x %s bits 0x%08x)",
                          feature.leaf, feature.name, missing);
            return fail(ErrorKind::unsupported, text.data(), "restore it on a host with the same or a newer CPU model");
        }
    }
    return {};
}

}  // namespace snapvm
