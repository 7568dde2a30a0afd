// SPDX-License-Identifier: Apache-2.0
// Guest memory is a list of blocks, each one range of guest-physical addresses and one mapping in the host. Everything that counts
// pages counts them within a block (traps.md: several memory slots).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/memory/discard_gate.h"
#include "vmm/memory/gpa.h"
#include "vmm/memory/mapping.h"
#include "vmm/memory/page_class.h"
#include "vmm/memory/page_types.h"
#include "vmm/memory/write_marks.h"

namespace snapvm {

/// Identifies a block in snapshots. The numbers are on disk: never renumber. Device memory starts at 32.
enum class BlockId : std::uint32_t {
    ram_low = 1,
    ram_high = 2,
    firmware = 16,
    vmgenid = 32,
};
[[nodiscard]] std::string_view name_of(BlockId id);

/// Where a block is and how large; sizes are multiples of 4 KiB.
struct BlockSpec {
    BlockId id{};
    Gpa base;
    std::uint64_t size = 0;

    [[nodiscard]] std::uint64_t pages() const { return size / kPageSize; }
    friend bool operator==(const BlockSpec&, const BlockSpec&) = default;
};

/// How the host is asked to back guest memory (`--pages`).
enum class PagePolicy : std::uint8_t {
    automatic = 0,    ///< huge pages advised for RAM
    small_pages = 1,  ///< 4 KiB only
    huge_pages = 2,   ///< huge pages advised
};

/// What the pages that a guest has not written since a restore hold, without reading them: class and checksum, as its snapshot
/// recorded them. Implemented by the snapshot layer; keeps the snapshot pinned as long as it lives.
class PageOrigin {
public:
    struct Entry {
        PageClass page_class = PageClass::absent;
        std::uint32_t checksum = 0;  ///< of classes with data
    };
    virtual ~PageOrigin() = default;
    /// Fills `out` with the entries of pages `first` and on of block `id`.
    virtual Status read_entries(BlockId id, std::uint64_t first, std::span<Entry> out) const = 0;
    /// Fills `out`, whole pages, with what page `first` and those after it hold. Only for classes with data; checks no page's checksum.
    virtual Status read_data(BlockId id, std::uint64_t first, std::span<std::byte> out) const = 0;
};

/// Pages of a restored block that are mapped onto other pages of the same snapshot, which hold the same.
struct SharedRun {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    BlockId source{};
    std::uint64_t source_first = 0;
};

/// One block of guest memory. Movable, not copyable; the host address is fixed for its life, and is 2 MiB aligned for RAM.
class MemoryBlock {
public:
    /// What stands behind pages the guest has not written.
    enum class Backing : std::uint8_t {
        anonymous,  ///< zeros
        memfd,  ///< a memfd shared with other processes
        snapshot,  ///< private mappings of a snapshot's data (with anonymous overlays on runs without data)
    };

    /// Zeroed memory of the process' own, with huge pages advised according to `policy`.
    static Result<MemoryBlock> anonymous(const BlockSpec& spec, PagePolicy policy);
    /// Zeroed memory in a new memfd, for what several processes share.
    static Result<MemoryBlock> memfd(const BlockSpec& spec);
    /// Memory mapped privately from `fd` at `offset`; `origin` tells what unwritten pages hold and keeps the file pinned.
    static Result<MemoryBlock> snapshot(const BlockSpec& spec, int fd, std::uint64_t offset,
                                        std::shared_ptr<const PageOrigin> origin);

    [[nodiscard]] const BlockSpec& spec() const { return spec_; }
    [[nodiscard]] Backing backing() const { return backing_; }
    [[nodiscard]] std::byte* host() const { return mapping_.data(); }
    [[nodiscard]] std::span<std::byte> bytes() const { return mapping_.bytes(); }
    [[nodiscard]] std::span<const std::byte> page(std::uint64_t index) const {
        return {mapping_.data() + index * kPageSize, kPageSize};
    }
    /// The memfd (for sharing it); -1 for the other backings.
    [[nodiscard]] int memfd_fd() const { return memfd_.get(); }
    [[nodiscard]] const PageOrigin* origin() const { return origin_.get(); }
    [[nodiscard]] const PageTypes& types() const { return types_; }
    /// What the guest gave up, or took back. Its contents change with it, so this counts as a write; after the change.
    void set_type(std::uint64_t page, PageType type) {
        types_.set(page, type);
        marks_.mark(page, 1);
    }
    /// Gives pages [first, first + count) back to the host and notes as what: they read as zeros from here on, until somebody writes there.
    /// How depends on what stands behind them (give_up.cc). Counts as a write. For whoever holds a pass of the gate.
    Status give_up(std::uint64_t first, std::uint64_t count, PageType type);
    /// They are the guest's again; nothing else changes.
    void take_back(std::uint64_t first, std::uint64_t count);
    [[nodiscard]] const DiscardGate& discards() const { return gate_; }
    /// Whether the 2 MiB around a page of a restored block were given up as one: untouched it is zeros, and not the origin's.
    [[nodiscard]] bool emptied(std::uint64_t page) const {
        return emptied_ && emptied_[page / kUnitPages].load(std::memory_order_acquire);
    }
    /// What the VMM writes, it marks here, after the bytes are there.
    [[nodiscard]] WriteMarks& marks() { return marks_; }

    /// Replaces pages [first, first + count) by fresh anonymous memory (zeros) with huge pages advised: the map plan's overlays.
    Status overlay_anonymous(std::uint64_t first, std::uint64_t count);
    /// Whether all of these pages are in one overlay.
    [[nodiscard]] bool overlaid(std::uint64_t first, std::uint64_t count) const;
    /// Maps the pages of `run`, none of which the guest has written yet, onto the data of those that they repeat, privately as before: at
    /// `offset` of `fd`, the file behind this block.
    Status share(const SharedRun& run, int fd, std::uint64_t offset);
    /// Fills `out`, whole pages, with what page `first` and those after it hold while they are untouched: read from the origin, where they
    /// are mapped to. Only for classes with data.
    Status read_untouched(std::uint64_t first, std::span<std::byte> out) const;
    /// Zeroed memory for `replace`.
    Result<Mapping> space_for_copy() const;
    /// Moves pages [first, first + count) of `copy` to their place in this block. The guest must not run meanwhile. An error leaves the
    /// block as it was, unless the kernel has no memory left at all for its own records: the guest then ends at its next access.
    Status replace(std::uint64_t first, std::uint64_t count, const Mapping& copy);
    /// Once every page is replaced or overlaid: what is untouched now is zeros, and the origin is kept no longer.
    void let_go_of_origin(PagePolicy policy);

private:
    MemoryBlock(BlockSpec spec, Backing backing, Mapping mapping, PageTypes types, WriteMarks marks);
    static Result<MemoryBlock> of(const BlockSpec& spec, Backing backing, Mapping mapping);

    static constexpr std::uint64_t kUnitPages = kHugePageSize / kPageSize;
    Status discard(std::uint64_t first, std::uint64_t count);
    Status discard_of_snapshot(std::uint64_t first, std::uint64_t count);
    Status drop_or_zero(std::uint64_t first, std::uint64_t count);
    bool empty_units(std::uint64_t first, std::uint64_t count);
    Status drop(std::uint64_t first, std::uint64_t count);

    BlockSpec spec_;
    Backing backing_;
    UniqueFd memfd_;
    // Declared before the mapping, so that it goes after it: the pin is dropped only when nothing maps the file any more.
    std::shared_ptr<const PageOrigin> origin_;
    Mapping mapping_;
    PageTypes types_;
    WriteMarks marks_;
    struct Overlay {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
    };
    std::vector<Overlay> overlays_;
    std::vector<SharedRun> shared_;  // by first page; none over another
    DiscardGate gate_;
    std::unique_ptr<std::atomic<bool>[]> emptied_;  // by 2 MiB, of a restored block; a snapshot reads while a device writes
};

}  // namespace snapvm
