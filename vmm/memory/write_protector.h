// SPDX-License-Identifier: Apache-2.0
// Keeps pages as they are until somebody has read them: whoever writes to one, guest or VMM, waits meanwhile.
// Source: Documentation/admin-guide/mm/userfaultfd.rst, "Write Protect Notifications"; ioctl_userfaultfd(2).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// userfaultfd's write protection over all blocks. KVM's mappings of protected pages go with the host's (its MMU notifier), so guests
/// are held as everybody else is. Blocks are named by their place in block-list order, and must outlive it. `protect` and `release` from
/// any thread; `next_fault` from one. As long as it is there, no page is given up (DiscardGate).
class WriteProtector {
public:
    /// Nothing is protected yet. ErrorKind::unsupported where the kernel refuses: memory that is not anonymous (a machine restored by
    /// mapping), no right to handle faults of KVM's, pages that were given up on a kernel before 6.4.
    static Result<WriteProtector> over(std::span<const MemoryBlock> blocks);
    WriteProtector(WriteProtector&&) noexcept = default;
    WriteProtector& operator=(WriteProtector&&) = delete;
    ~WriteProtector() { lift(); }

    /// Holds every write to pages [first, first + count) from here on. In runs of 2 MiB huge pages stay whole, and it is cheapest.
    Status protect(std::size_t block, std::uint64_t first, std::uint64_t count);
    /// Those who wait go on.
    Status release(std::size_t block, std::uint64_t first, std::uint64_t count);

    /// Protects nothing any more, and lets everybody go on who is held.
    void lift();

    struct Fault {
        std::size_t block = 0;
        std::uint64_t page = 0;
    };
    /// Waits until somebody waits to write; nothing once `stop`, an eventfd, is readable.
    Result<std::optional<Fault>> next_fault(int stop);

private:
    WriteProtector(std::span<const MemoryBlock> blocks, UniqueFd fd) : blocks_(blocks), fd_(std::move(fd)) {
        for (const MemoryBlock& block : blocks) {
            holds_.emplace_back(block.discards());
        }
    }
    Status set(std::size_t block, std::uint64_t first, std::uint64_t count, std::uint64_t mode);

    std::span<const MemoryBlock> blocks_;
    std::vector<DiscardGate::Hold> holds_;  ///< a page given up here would be protected no more (traps.md); ends after `lift`
    UniqueFd fd_;
};

}  // namespace snapvm
