// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/entry.h"

#include <array>

#include "vmm/base/try.h"
#include "vmm/kvm/x86.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

using namespace x86;

// The selectors that Linux's 64-bit boot protocol requires (__BOOT_CS, __BOOT_DS); PVH requires
// none. VT-x enters a guest only with a busy TSS.
constexpr std::uint16_t kCodeSelector = 0x10;
constexpr std::uint16_t kDataSelector = 0x18;
constexpr std::uint16_t kTssSelector = 0x20;

constexpr std::uint64_t kTss = 0x00008B0000000067;

constexpr std::uint64_t kPresentWritable = 3;
constexpr std::uint64_t kLargePage = 1ULL << 7;

std::uint64_t code_descriptor(BootEntry::Mode mode) { return mode == BootEntry::Mode::linux64 ? kCode64 : kCode32; }

}  // namespace

Status set_boot_registers(kvm::VcpuFd& vcpu, const BootEntry& entry) {
    auto sregs = TRY(vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS"));
    sregs.cs = segment(kCodeSelector, code_descriptor(entry.mode));
    const kvm_segment data = segment(kDataSelector, kData);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.tr = segment(kTssSelector, kTss);
    sregs.gdt.base = platform::kGdt.value;
    sregs.gdt.limit = 5 * sizeof(std::uint64_t) - 1;
    sregs.cr0 = kCr0ProtectedMode | kCr0ExtensionType;
    if (entry.mode == BootEntry::Mode::linux64) {
        sregs.cr0 |= kCr0Paging;
        sregs.cr4 = kCr4Pae;
        sregs.cr3 = platform::kPageTables.value;
        sregs.efer = kEferLongModeEnabled | kEferLongModeActive;
    }
    TRY(vcpu.set(KVM_SET_SREGS, sregs, "KVM_SET_SREGS"));

    kvm_regs regs{};
    regs.rip = entry.rip;
    regs.rflags = kFlagsFixed;
    (entry.mode == BootEntry::Mode::pvh ? regs.rbx : regs.rsi) = entry.argument.value;
    return vcpu.set(KVM_SET_REGS, regs, "KVM_SET_REGS");
}

Status write_entry_tables(GuestMemory& memory, BootEntry::Mode mode) {
    const std::array<std::uint64_t, 5> gdt = {0, 0, code_descriptor(mode), kData, kTss};
    TRY(memory.store(platform::kGdt, gdt));
    if (mode == BootEntry::Mode::pvh) {
        return {};
    }
    // One PML4, one PDPT and four page directories: 24 KiB.
    constexpr std::uint64_t kDirectories = 4;
    const Gpa pml4 = platform::kPageTables;
    const Gpa pdpt = pml4 + kPageSize;
    const Gpa directories = pdpt + kPageSize;
    TRY(memory.store(pml4, pdpt.value | kPresentWritable));
    for (std::uint64_t i = 0; i < kDirectories; ++i) {
        TRY(memory.store(pdpt + i * sizeof(std::uint64_t), (directories.value + i * kPageSize) | kPresentWritable));
        std::array<std::uint64_t, 512> entries;
        for (std::uint64_t j = 0; j < entries.size(); ++j) {
            entries[j] = (i * entries.size() + j) * kHugePageSize | kLargePage | kPresentWritable;
        }
        TRY(memory.store(directories + i * kPageSize, entries));
    }
    return {};
}

}  // namespace snapvm
