// SPDX-License-Identifier: Apache-2.0
// Sets the register state in which a boot protocol starts the first vCPU.
#pragma once

#include <cstdint>

#include "vmm/base/error.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// The mode and address at which the first vCPU starts.
struct BootEntry {
    enum class Mode : std::uint8_t {
        pvh,      ///< 32-bit protected mode, no paging, EBX = start info
        linux64,  ///< long mode, identity-mapped, RSI = boot parameters
    };
    Mode mode{};
    std::uint64_t rip = 0;
    Gpa argument;
};

/// Sets the registers and system registers of a fresh first vCPU. The GDT and page tables must be
/// in memory before it runs (write_entry_tables).
Status set_boot_registers(kvm::VcpuFd& vcpu, const BootEntry& entry);
/// Writes the GDT. For linux64, also writes page tables that map the first 4 GiB one to one with 2
/// MiB pages.
Status write_entry_tables(GuestMemory& memory, BootEntry::Mode mode);

}  // namespace snapvm
