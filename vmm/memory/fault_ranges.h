// SPDX-License-Identifier: Apache-2.0
// Counts, for the pages of one block, the uses that need them registered with the userfaultfd.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "vmm/memory/userfaultfd.h"

namespace snapvm {

/// What the kernel has registered of one block, and for how many uses. A piece is a run of pages
/// with equal kinds and uses. Kinds only grow while a piece has uses: the kernel's UFFDIO_REGISTER
/// takes no kind away, and between an unregister and a register a fault would go unreported. Not
/// thread-safe.
class FaultRanges {
public:
    struct Piece {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
        FaultKinds kinds;
        unsigned uses = 0;
        friend bool operator==(const Piece&, const Piece&) = default;
    };

    /// Returns the pieces of pages [first, first + count), cut off at both ends, in order.
    [[nodiscard]] std::vector<Piece> pieces(std::uint64_t first, std::uint64_t count) const;
    /// Counts one more use of `kinds` on these pages.
    void add(std::uint64_t first, std::uint64_t count, FaultKinds kinds);
    /// Counts one use less. Pages that no use is left for lose their kinds.
    void remove(std::uint64_t first, std::uint64_t count);

private:
    struct Value {
        FaultKinds kinds;
        unsigned uses = 0;
        friend bool operator==(const Value&, const Value&) = default;
    };
    void change(std::uint64_t first, std::uint64_t count, const auto& by);

    /// Each value holds from its page to the next key; nothing is registered behind the last.
    std::map<std::uint64_t, Value> from_{{0, Value{}}};
};

}  // namespace snapvm
