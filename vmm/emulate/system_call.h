// SPDX-License-Identifier: Apache-2.0
// Repairs SYSCALL on hosts on which it stays at CPL 3. The guest's kernel then gets a page fault at
// the address that the system call should have entered. Source: Intel SDM volume 2, "SYSCALL";
// volume 3, 6.12 (what an exception pushes).
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

/// The stack frame of a page fault, lowest address first.
struct PageFaultFrame {
    std::uint64_t error_code = 0, rip = 0, cs = 0, rflags = 0, rsp = 0, ss = 0;
};

/// Returns the frame of a page fault if it is a program's instruction fetch; else nothing. `cpu` is
/// at the first instruction of the page fault handler.
[[nodiscard]] std::optional<PageFaultFrame> fetch_of_program(const CpuState& cpu, const AddressSpace& space);

/// If the fault was a SYSCALL, puts `cpu` into the state that SYSCALL leaves, and returns true. It
/// was one if a SYSCALL instruction precedes the address in RCX. A program can also jump to LSTAR
/// with such an RCX. R11 is then the program's, so only the flags that a program can set are taken
/// from it.
[[nodiscard]] bool become_system_call(CpuState& cpu, const PageFaultFrame& fetch, const SystemCallMsrs& msrs,
                                      const AddressSpace& space);

/// Returns the address in the gate of vector 14. Returns nothing if there is no gate yet, or
/// outside long mode.
[[nodiscard]] std::optional<std::uint64_t> page_fault_entry(const kvm_sregs& sregs, const AddressSpace& space);

}  // namespace snapvm::emulate
