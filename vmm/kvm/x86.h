// SPDX-License-Identifier: Apache-2.0
// The meaning of the values in kvm_regs and kvm_sregs. Source: Intel SDM volume 3, 2.3 (RFLAGS),
// 2.5 (control registers), 2.2.1 (EFER), 3.4.5 (descriptors), 4.7 (page fault error code).
#pragma once

#include <cstdint>

#include "vmm/kvm/abi.h"

namespace snapvm::x86 {

inline constexpr std::uint64_t kFlagCarry = 1ULL << 0, kFlagsFixed = 1ULL << 1, kFlagParity = 1ULL << 2,
                               kFlagAdjust = 1ULL << 4, kFlagZero = 1ULL << 6, kFlagSign = 1ULL << 7,
                               kFlagDirection = 1ULL << 10, kFlagOverflow = 1ULL << 11, kFlagResume = 1ULL << 16,
                               kFlagVirtual8086 = 1ULL << 17, kFlagAlignmentCheck = 1ULL << 18;

inline constexpr std::uint64_t kCr0ProtectedMode = 1ULL << 0, kCr0MonitorCoprocessor = 1ULL << 1,
                               kCr0TaskSwitched = 1ULL << 3, kCr0ExtensionType = 1ULL << 4,
                               kCr0WriteProtect = 1ULL << 16, kCr0Paging = 1ULL << 31;

inline constexpr std::uint64_t kCr4LargePages = 1ULL << 4, kCr4Pae = 1ULL << 5, kCr4FiveLevels = 1ULL << 12,
                               kCr4FsGsBase = 1ULL << 16, kCr4Osxsave = 1ULL << 18, kCr4Smep = 1ULL << 20,
                               kCr4Smap = 1ULL << 21, kCr4ProtectionKeys = 1ULL << 22;

inline constexpr std::uint64_t kEferSystemCalls = 1ULL << 0, kEferLongModeEnabled = 1ULL << 8,
                               kEferLongModeActive = 1ULL << 10, kEferNoExecute = 1ULL << 11;

inline constexpr std::uint32_t kFaultPresent = 1U << 0, kFaultWrite = 1U << 1, kFaultUser = 1U << 2,
                               kFaultFetch = 1U << 4;

/// Descriptors of flat segments of CPL 0.
inline constexpr std::uint64_t kCode64 = 0x00AF9B000000FFFF, kCode32 = 0x00CF9B000000FFFF, kData = 0x00CF93000000FFFF;

/// Returns a segment register with the hidden part that the processor loads from an eight-byte
/// descriptor, whose layout is the same for all kinds (figure 3-8).
[[nodiscard]] inline kvm_segment segment(std::uint16_t selector, std::uint64_t descriptor) {
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

}  // namespace snapvm::x86
