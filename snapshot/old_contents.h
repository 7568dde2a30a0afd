// SPDX-License-Identifier: Apache-2.0
// What is known of the bytes that a block's data section holds before a snapshot is written over it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/area.h"
#include "vmm/base/error.h"

namespace snapvm {

class OldContents {
public:
    /// Believes the entries of the slot's previous snapshot when they are of the same place and size and their checksum is right.
    /// `index`: the block's place in block-list order. Before begin(); reads later.
    static Result<OldContents> of(AreaWriter& area, std::size_t index);

    /// Sets `out` for pages `first` and on: whether the page may hold anything but zeros.
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
