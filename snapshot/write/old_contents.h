// SPDX-License-Identifier: Apache-2.0
// Tells which pages of a block's data section may hold old bytes before a snapshot is written over
// them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/area/area.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Knowledge of one block's old data, from the entries of the slot's previous snapshot.
class OldContents {
public:
    /// Uses the entries of the slot's previous snapshot if they have the same place and size and a
    /// right checksum. `index` is the block's position in block-list order. Must be called before
    /// the entries are written over.
    static Result<OldContents> of(AreaWriter& area, std::size_t index);

    /// Fills `out` for page `first` and those after it: whether the page may hold anything but
    /// zeros.
    Status may_have_data(std::uint64_t first, std::span<bool> out);

private:
    enum class Knowledge : std::uint8_t { all_zero, entries, none };
    OldContents(const AreaFile& file, Knowledge knowledge, Section entries)
        : file_(&file), knowledge_(knowledge), entries_(entries) {}

    const AreaFile* file_;
    Knowledge knowledge_;
    Section entries_;
    std::vector<std::uint64_t> raw_;
};

}  // namespace snapvm
