// SPDX-License-Identifier: Apache-2.0
// Which pages of a block hold something of this machine's own, found without touching (and so populating) them.
#pragma once

#include <cstdint>
#include <span>

#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

enum class Population : std::uint8_t {
    untouched = 0,  ///< never populated here: zeros, or what the origin snapshot holds
    own = 1,        ///< populated: its contents must be looked at. Swapped-out pages count (traps.md: mincore is not the answer)
};

/// Reads populations of one block after another; opens /proc/self/pagemap once (Documentation/admin-guide/mm/pagemap.rst; flags
/// are readable without privileges). memfd blocks are asked through SEEK_DATA, since a page may live in the file without being mapped here.
class PopulationScanner {
public:
    static Result<PopulationScanner> open();

    /// Fills `out` for pages `first` and on of `block`. The guest should be paused: answers about running guests are a moment's.
    Status scan(const MemoryBlock& block, std::uint64_t first, std::span<Population> out) const;

private:
    explicit PopulationScanner(UniqueFd pagemap) : pagemap_(std::move(pagemap)) {}
    UniqueFd pagemap_;
};

/// What one pagemap entry says of a page of private memory. Exposed for its test: no swap is to be had on most test machines.
[[nodiscard]] Population population_of_pagemap_entry(std::uint64_t entry, MemoryBlock::Backing backing);

}  // namespace snapvm
