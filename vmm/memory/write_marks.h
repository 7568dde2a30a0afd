// SPDX-License-Identifier: Apache-2.0
// Records the pages that the VMM itself writes or discards. Neither KVM's dirty log nor its dirty
// ring has them.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "vmm/base/error.h"
#include "vmm/memory/mapping.h"

namespace snapvm {

/// One bit for each page of one block. Any thread may call it.
///
/// Order: a writer writes its bytes, then marks; a snapshot collects, then copies. If a page is
/// copied while a writer is half done, the writer marks it afterwards and the page is copied again.
/// A mark before the bytes arrive (at the submission of a DMA) would lose the second half. Marking
/// is always on: it is one locked instruction, and a check of a switch would need a barrier as
/// expensive.
class WriteMarks {
public:
    static Result<WriteMarks> of(std::uint64_t pages);

    /// Marks pages [first, first + count), clipped to the block.
    void mark(std::uint64_t first, std::uint64_t count);
    /// Adds the marked pages to `into` (one bit for each page) and clears the marks.
    void collect(std::span<std::uint64_t> into);
    /// Adds the marked pages to `into` and keeps the marks.
    void peek(std::span<std::uint64_t> into) const;

private:
    WriteMarks(std::uint64_t pages, Mapping words) : pages_(pages), words_(std::move(words)) {}
    [[nodiscard]] std::uint64_t& word(std::uint64_t index) const {
        return reinterpret_cast<std::uint64_t*>(words_.data())[index];
    }

    std::uint64_t pages_;
    Mapping words_;  ///< its pages are allocated on the first mark within them
};

}  // namespace snapvm
