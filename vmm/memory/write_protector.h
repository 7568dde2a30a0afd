// SPDX-License-Identifier: Apache-2.0
// Keeps pages unchanged until they have been read: a guest or VMM thread that writes to one waits
// meanwhile. Source: Documentation/admin-guide/mm/userfaultfd.rst, "Write Protect Notifications".
#pragma once

#include <memory>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/discard_gate.h"
#include "vmm/memory/fault_service.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// Write protection over all blocks: a use of the memory's FaultService. When a page of the host is
/// protected, the MMU notifier removes KVM's mapping of it, so guest writes wait like all others.
/// The memory and the handler outlive it. Any thread may call `protect` and `release`; the handler
/// gets the write-protect faults. No page is given up while it exists (DiscardGate).
class WriteProtector {
public:
    /// Registers the blocks; nothing is protected yet. Fails with unsupported if the kernel
    /// refuses: the memory is not anonymous (a machine restored by mapping), the process may not
    /// handle KVM's faults, or pages were given up and the kernel is older than 6.4.
    static Result<std::unique_ptr<WriteProtector>> over(const GuestMemory& memory, FaultHandler& handler);

    /// Holds every write to the pages from now on. Ranges of whole 2 MiB are the cheapest, and they
    /// do not split huge pages.
    Status protect(const PageRange& pages) { return use_.protect(pages); }
    /// Ends the protection of the pages and wakes the held writers.
    Status release(const PageRange& pages) { return use_.release(pages); }

    /// Ends all protection and wakes all held writers. Waits until the handler does not run; it is
    /// not called any more. Also done by the destructor. A handler does not call it.
    void lift() { use_.end(); }

private:
    WriteProtector(const GuestMemory& memory, FaultHandler& handler) : use_(memory.faults(), handler) {
        for (const MemoryBlock& block : memory.blocks()) {
            holds_.emplace_back(block.discards());
        }
    }

    /// Keeps pages from being given up, which would end their protection. Destroyed after the use.
    std::vector<DiscardGate::Hold> holds_;
    FaultUse use_;
};

}  // namespace snapvm
