// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/entry.h"

#include <array>

#include "vmm/base/try.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

// Selectors as Linux's 64-bit boot protocol names them (__BOOT_CS, __BOOT_DS); PVH leaves them open. The TSS is for VT-x, which
// enters no guest without a busy one.
constexpr std::uint16_t kCodeSelector = 0x10;
constexpr std::uint16_t kDataSelector = 0x18;
constexpr std::uint16_t kTssSelector = 0x20;

constexpr std::uint64_t kCode64 = 0x00AF9B000000FFFF;
constexpr std::uint64_t kCode32 = 0x00CF9B000000FFFF;
constexpr std::uint64_t kData = 0x00CF93000000FFFF;
constexpr std::uint64_t kTss = 0x00008B0000000067;

constexpr std::uint64_t kCr0ProtectedMode = 1ULL << 0;
constexpr std::uint64_t kCr0ExtensionType = 1ULL << 4;
constexpr std::uint64_t kCr0Paging = 1ULL << 31;
constexpr std::uint64_t kCr4Pae = 1ULL << 5;
constexpr std::uint64_t kEferLongMode = 1ULL << 8 | 1ULL << 10;  // enabled and active
constexpr std::uint64_t kRflagsFixed = 2;

constexpr std::uint64_t kPresentWritable = 3;
constexpr std::uint64_t kLargePage = 1ULL << 7;

// The processor's hidden descriptor registers, from a GDT descriptor (Intel SDM volume 3, figure 3-8).
kvm_segment segment(std::uint16_t selector, std::uint64_t descriptor) {
    kvm_segment out{};
    out.selector = selector;
    out.base = (descriptor >> 16 & 0xFFFFFF) | (descriptor >> 56 << 24);
    const auto limit = static_cast<std::uint32_t>((descriptor & 0xFFFF) | (descriptor >> 32 & 0xF0000));
    const bool pages = (descriptor >> 55 & 1) != 0;
    out.limit = pages ? limit << 12 | 0xFFF : limit;
    out.type = descriptor >> 40 & 0xF;
    out.s = descriptor >> 44 & 1;
    out.dpl = descriptor >> 45 & 3;
    out.present = descriptor >> 47 & 1;
    out.avl = descriptor >> 52 & 1;
    out.l = descriptor >> 53 & 1;
    out.db = descriptor >> 54 & 1;
    out.g = pages ? 1 : 0;
    return out;
}

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
        sregs.efer = kEferLongMode;
    }
    TRY(vcpu.set(KVM_SET_SREGS, sregs, "KVM_SET_SREGS"));

    kvm_regs regs{};
    regs.rip = entry.rip;
    regs.rflags = kRflagsFixed;
    (entry.mode == BootEntry::Mode::pvh ? regs.rbx : regs.rsi) = entry.argument.value;
    return vcpu.set(KVM_SET_REGS, regs, "KVM_SET_REGS");
}

Status write_entry_tables(GuestMemory& memory, BootEntry::Mode mode) {
    const std::array<std::uint64_t, 5> gdt = {0, 0, code_descriptor(mode), kData, kTss};
    TRY(memory.store(platform::kGdt, gdt));
    if (mode == BootEntry::Mode::pvh) {
        return {};
    }
    // One PML4, one PDPT, four page directories: 24 KiB.
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
