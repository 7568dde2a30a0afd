// SPDX-License-Identifier: Apache-2.0
// Finds the pages of a block that hold contents of this machine's own, without touching them, which
// would populate them.
#pragma once

#include <cstdint>
#include <span>

#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

enum class Population : std::uint8_t {
    /// Never populated here: the page is zeros, or holds what the origin snapshot has.
    untouched = 0,
    /// Populated: only its contents tell what it holds. Swapped-out pages count as populated;
    /// mincore(2) reports them as absent and is of no use here.
    own = 1,
};

/// Reads the populations of one block after another. Opens /proc/self/pagemap once
/// (Documentation/admin-guide/mm/pagemap.rst; the flags are readable without privileges). For memfd
/// blocks it uses SEEK_DATA, since the file may have a page that is not mapped here. In a root
/// without /proc it says of all other pages that they are the machine's own, so that they are read.
class PopulationScanner {
public:
    static Result<PopulationScanner> open();

    /// Fills `out` for the pages of `block` from page `first` on. For a running guest the answer
    /// may be outdated when it returns, so callers pause the guest.
    Status scan(const MemoryBlock& block, std::uint64_t first, std::span<Population> out) const;

private:
    explicit PopulationScanner(UniqueFd pagemap) : pagemap_(std::move(pagemap)) {}
    UniqueFd pagemap_;
};

/// Decodes one pagemap entry of a page of private memory. Public for its test, since most test
/// machines have no swap.
[[nodiscard]] Population population_of_pagemap_entry(std::uint64_t entry, MemoryBlock::Backing backing);

}  // namespace snapvm
