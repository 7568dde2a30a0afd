// SPDX-License-Identifier: Apache-2.0
// SYSCALL on hosts where it stays at CPL 3 (shared/hosts.md, 4): the guest's kernel gets a page fault for it, at the very address that the
// system call should have gone to. Source: Intel SDM volume 2, "SYSCALL"; volume 3, 6.12 (what an exception pushes).
#pragma once

#include <cstdint>
#include <optional>

#include "vmm/emulate/address_space.h"
#include "vmm/emulate/cpu_state.h"

namespace snapvm::emulate {

inline constexpr std::uint32_t kMsrStar = 0xC0000081, kMsrLstar = 0xC0000082, kMsrFmask = 0xC0000084;

struct SystemCallMsrs {
    std::uint64_t star = 0;
    std::uint64_t lstar = 0;
    std::uint64_t fmask = 0;
};

/// What a page fault has pushed, lowest address first.
struct PageFaultFrame {
    std::uint64_t error_code = 0, rip = 0, cs = 0, rflags = 0, rsp = 0, ss = 0;
};

/// `cpu` is at the first instruction of the page fault's handler: the frame, where a program was to be read, by itself; else nothing.
[[nodiscard]] std::optional<PageFaultFrame> fetch_of_program(const CpuState& cpu, const AddressSpace& space);

/// If that fault was a SYSCALL, puts `cpu` into the state that it would have left, and tells so. It was one where there is one before the address
/// in RCX. A program can jump to LSTAR from elsewhere with such an RCX: then R11 is the program's, too, and is cut down to the flags that a
/// program can have set.
[[nodiscard]] bool become_system_call(CpuState& cpu, const PageFaultFrame& fetch, const SystemCallMsrs& msrs,
                                      const AddressSpace& space);

/// Where the gate of vector 14 leads; nothing where there is none (yet), or no long mode.
[[nodiscard]] std::optional<std::uint64_t> page_fault_entry(const kvm_sregs& sregs, const AddressSpace& space);

}  // namespace snapvm::emulate
