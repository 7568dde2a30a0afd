// SPDX-License-Identifier: Apache-2.0
// One round over a machine's pages: classified, written where they have data, zeroed where they have none any more.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/area.h"
#include "snapshot/classify.h"
#include "snapshot/page_sink.h"
#include "snapshot/sections.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Writes the entries and data of every block into the slot of an AreaWriter that has begun.
class PageWriter {
public:
    PageWriter(AreaWriter& area, PageSink& sink, Classifier classifier)
        : area_(area), sink_(sink), classifier_(std::move(classifier)) {}

    /// `index` is the block's place in block-list order. The memory must not change before the sink is drained.
    Status write_block(const MemoryBlock& block, std::size_t index);

    [[nodiscard]] const std::array<std::uint64_t, kPageClassCount>& counts() const { return counts_; }
    [[nodiscard]] std::uint64_t data_bytes() const { return data_bytes_; }
    /// Checksums over the entries of the blocks written so far.
    [[nodiscard]] const std::vector<std::uint32_t>& entry_crcs() const { return entry_crcs_; }
    /// The map plan for the blocks written so far: the longest runs without data, longest first.
    [[nodiscard]] std::vector<PlanRun> plan() const;

private:
    AreaWriter& area_;
    PageSink& sink_;
    Classifier classifier_;
    std::array<std::uint64_t, kPageClassCount> counts_{};
    std::uint64_t data_bytes_ = 0;
    std::vector<std::uint32_t> entry_crcs_;
    std::vector<PlanRun> runs_;
};

/// What is known of the bytes that a block's data section holds before a snapshot.
class OldContents {
public:
    /// Believes the entries of the slot's previous snapshot when they are of the same place and size and their checksum is right.
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
