// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/fault_ranges.h"

#include <algorithm>
#include <iterator>

namespace snapvm {

std::vector<FaultRanges::Piece> FaultRanges::pieces(std::uint64_t first, std::uint64_t count) const {
    std::vector<Piece> found;
    const std::uint64_t end = first + count;
    for (auto at = std::prev(from_.upper_bound(first)); first < end; ++at) {
        const auto next = std::next(at);
        const std::uint64_t until = next == from_.end() ? end : std::min(end, next->first);
        found.push_back({first, until - first, at->second.kinds, at->second.uses});
        first = until;
    }
    return found;
}

// Applies `by` to the value of each piece of the range, and joins neighbours that have become
// equal.
void FaultRanges::change(std::uint64_t first, std::uint64_t count, const auto& by) {
    for (const std::uint64_t cut : {first, first + count}) {
        from_.try_emplace(cut, std::prev(from_.upper_bound(cut))->second);
    }
    const auto end = from_.find(first + count);
    for (auto at = from_.find(first); at != end; ++at) {
        by(at->second);
    }
    auto at = from_.find(first);
    at = at == from_.begin() ? std::next(at) : at;
    for (bool last = false; at != from_.end() && !last;) {
        last = at->first >= first + count;
        at = std::prev(at)->second == at->second ? from_.erase(at) : std::next(at);
    }
}

void FaultRanges::add(std::uint64_t first, std::uint64_t count, FaultKinds kinds) {
    change(first, count, [&](Value& value) {
        value.kinds = value.kinds | kinds;
        ++value.uses;
    });
}

void FaultRanges::remove(std::uint64_t first, std::uint64_t count) {
    change(first, count, [](Value& value) {
        --value.uses;
        value.kinds = value.uses == 0 ? FaultKinds() : value.kinds;
    });
}

}  // namespace snapvm
