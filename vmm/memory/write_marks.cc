// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/write_marks.h"

#include <algorithm>

#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {

Result<WriteMarks> WriteMarks::of(std::uint64_t pages) {
    const std::uint64_t bytes = (pages + 63) / 64 * sizeof(std::uint64_t);
    return WriteMarks(pages,
                      TRY(Mapping::anonymous(align_up(std::max<std::uint64_t>(bytes, 1), kPageSize), kPageSize)));
}

void WriteMarks::mark(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t end = first < pages_ ? first + std::min(count, pages_ - first) : first;
    while (first < end) {
        const std::uint64_t bit = first % 64;
        const std::uint64_t bits = std::min(64 - bit, end - first);
        const std::uint64_t mask = (bits == 64 ? ~0ULL : (1ULL << bits) - 1) << bit;
        std::atomic_ref(word(first / 64)).fetch_or(mask, std::memory_order_seq_cst);
        first += bits;
    }
}

void WriteMarks::collect(std::span<std::uint64_t> into) {
    for (std::size_t i = 0; i < into.size(); ++i) {
        std::atomic_ref marks(word(i));
        // Reads before it exchanges: an exchange of every word would populate the whole table.
        if (marks.load(std::memory_order_relaxed) != 0) {
            into[i] |= marks.exchange(0, std::memory_order_seq_cst);
        }
    }
}

void WriteMarks::peek(std::span<std::uint64_t> into) const {
    for (std::size_t i = 0; i < into.size(); ++i) {
        into[i] |= std::atomic_ref(word(i)).load(std::memory_order_seq_cst);
    }
}

}  // namespace snapvm
