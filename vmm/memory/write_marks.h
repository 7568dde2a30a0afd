// SPDX-License-Identifier: Apache-2.0
// What the VMM itself writes to guest memory, and what it discards, is in neither KVM's log nor its ring (traps.md): it is marked here.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "vmm/base/error.h"
#include "vmm/memory/mapping.h"

namespace snapvm {

/// A bit a page of one block. Any thread.
///
/// Order: write the bytes, then mark; collect, then copy. A writer that is half done when its page is copied marks it afterwards, and the
/// page is copied again. (Marked before the bytes arrive, as by a DMA's submission, the second half would be lost.) Always on: marking
/// is one locked instruction, and a switch would need as much of a barrier.
class WriteMarks {
public:
    static Result<WriteMarks> of(std::uint64_t pages);

    /// Pages [first, first + count), clipped to the block.
    void mark(std::uint64_t first, std::uint64_t count);
    /// Adds the marked pages to `into` (a bit a page) and forgets them.
    void collect(std::span<std::uint64_t> into);
    /// Adds them without forgetting any.
    void peek(std::span<std::uint64_t> into) const;

private:
    WriteMarks(std::uint64_t pages, Mapping words) : pages_(pages), words_(std::move(words)) {}
    [[nodiscard]] std::uint64_t& word(std::uint64_t index) const { return reinterpret_cast<std::uint64_t*>(words_.data())[index]; }

    std::uint64_t pages_;
    Mapping words_;  ///< untouched, and so free, where nothing was written
};

}  // namespace snapvm
