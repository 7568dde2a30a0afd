// SPDX-License-Identifier: Apache-2.0
// Guest memory is a list of blocks. Each block is one range of guest-physical addresses and one
// mapping in the host. Page numbers count from the start of a block.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
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

/// Identifies a block in snapshots. The numbers are on disk and never change. Device memory starts
/// at 32.
enum class BlockId : std::uint32_t {
    ram_low = 1,
    ram_high = 2,
    firmware = 16,
    vmgenid = 32,
};
[[nodiscard]] std::string_view name_of(BlockId id);

/// Where a block is and how large it is, in bytes. The size is a multiple of 4 KiB.
struct BlockSpec {
    BlockId id{};
    Gpa base;
    std::uint64_t size = 0;

    [[nodiscard]] std::uint64_t pages() const { return size / kPageSize; }
    friend bool operator==(const BlockSpec&, const BlockSpec&) = default;
};

/// How the host backs guest memory (`--pages`).
enum class PagePolicy : std::uint8_t {
    automatic = 0,    ///< huge pages advised for RAM
    small_pages = 1,  ///< 4 KiB only
    huge_pages = 2,   ///< huge pages advised
};

/// The host addresses of a block whose memory is not there yet. KVM's slot may lie over them before
/// it comes.
struct ReservedBlock {
    BlockSpec spec;
    Mapping addresses;

    static Result<ReservedBlock> of(const BlockSpec& spec);
    /// Reserves addresses for each block, in their order.
    static Result<std::vector<ReservedBlock>> all_of(std::span<const BlockSpec> specs);
};

/// The snapshot that a machine was restored from, as the source of the pages that the guest has not
/// written since. It tells each page's class and checksum without reading the page. The snapshot
/// layer implements it. The snapshot stays pinned as long as the object lives.
class PageOrigin {
public:
    struct Entry {
        PageClass page_class = PageClass::absent;
        std::uint32_t checksum = 0;  ///< of the page's data, for classes with data
    };
    virtual ~PageOrigin() = default;
    /// Returns the snapshot's area as the user wrote it, for messages.
    [[nodiscard]] virtual std::string_view name() const = 0;
    /// Fills `out` with the entries of the pages of block `id` from page `first` on.
    virtual Status read_entries(BlockId id, std::uint64_t first, std::span<Entry> out) const = 0;
    /// Fills `out` (a multiple of 4 KiB) with the data of the pages from page `first` on. All must
    /// have a class with data. Checks no checksums.
    virtual Status read_data(BlockId id, std::uint64_t first, std::span<std::byte> out) const = 0;
};

/// Returns what a user is told if pages of the snapshot cannot be read any more.
[[nodiscard]] std::string unreadable_text(const PageOrigin& origin);

/// Pages of a restored block that are mapped onto the data of other pages of the same snapshot,
/// whose contents are equal.
struct SharedRun {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    BlockId source{};
    std::uint64_t source_first = 0;
};

/// One block of guest memory. Movable, not copyable. The host address never changes. It is 2 MiB
/// aligned if the block is at least 2 MiB large.
class MemoryBlock {
public:
    /// What backs the pages that the guest has not written.
    enum class Backing : std::uint8_t {
        anonymous,  ///< zeros
        memfd,  ///< a memfd that other processes may map too
        snapshot,  ///< private mappings of a snapshot's data, with anonymous overlays on runs without data
    };

    /// Makes zeroed private memory, with huge pages advised according to `policy`.
    static Result<MemoryBlock> anonymous(const BlockSpec& spec, PagePolicy policy);
    /// Makes zeroed memory in a new memfd, which several processes can share.
    static Result<MemoryBlock> memfd(const BlockSpec& spec);
    /// Maps memory privately from `fd` at `offset`, over the reserved addresses. `origin` tells
    /// what unwritten pages hold, and keeps the file pinned.
    static Result<MemoryBlock> snapshot(ReservedBlock reserved, int fd, std::uint64_t offset,
                                        std::shared_ptr<const PageOrigin> origin);

    [[nodiscard]] const BlockSpec& spec() const { return spec_; }
    [[nodiscard]] Backing backing() const { return backing_; }
    [[nodiscard]] std::byte* host() const { return mapping_.data(); }
    [[nodiscard]] std::span<std::byte> bytes() const { return mapping_.bytes(); }
    [[nodiscard]] std::span<const std::byte> page(std::uint64_t index) const {
        return {mapping_.data() + index * kPageSize, kPageSize};
    }
    /// Returns the memfd, or -1 for the other backings.
    [[nodiscard]] int memfd_fd() const { return memfd_.get(); }
    [[nodiscard]] const PageOrigin* origin() const { return origin_.get(); }
    [[nodiscard]] const PageTypes& types() const { return types_; }
    /// Records that the guest gave a page up, or took it back. The page's contents change with its
    /// type, so this counts as a write. The caller calls it after the contents changed.
    void set_type(std::uint64_t page, PageType type) {
        types_.set(page, type);
        marks_.mark(page, 1);
    }
    /// Gives pages [first, first + count) back to the host and records `type` for each. They read
    /// as zeros until the next write. How the host takes them depends on the backing (discard.cc).
    /// Counts as a write. If it fails, the types stay, and a part of the pages may read as zeros.
    /// The caller holds a pass of discards().
    Status discard(std::uint64_t first, std::uint64_t count, PageType type);
    /// Records that the pages belong to the guest again. Their contents stay.
    void reclaim(std::uint64_t first, std::uint64_t count);
    [[nodiscard]] const DiscardGate& discards() const { return gate_; }
    /// Returns whether the 2 MiB unit around a page of a restored block was given up as a whole. An
    /// untouched page of such a unit is zeros; it does not have the origin's contents.
    [[nodiscard]] bool emptied(std::uint64_t page) const {
        return emptied_ && emptied_[page / kUnitPages].load(std::memory_order_acquire);
    }
    /// Returns the marks of the pages that the VMM writes. A writer marks after its bytes are in
    /// memory.
    [[nodiscard]] WriteMarks& marks() { return marks_; }

    /// Replaces pages [first, first + count) by fresh anonymous memory (zeros), with huge pages
    /// advised. A restore uses it for the long runs without data in its map plan.
    Status overlay_anonymous(std::uint64_t first, std::uint64_t count);
    /// Returns whether all of these pages lie in one overlay.
    [[nodiscard]] bool overlaid(std::uint64_t first, std::uint64_t count) const;
    /// Maps the pages of `run` privately onto the data of the equal pages, at `offset` of `fd`, the
    /// file behind this block. The guest must not have written any of them yet.
    Status share(const SharedRun& run, int fd, std::uint64_t offset);
    /// Fills `out` (a multiple of 4 KiB) with what the pages from page `first` on hold while they
    /// are untouched. Reads from the origin, and follows shared runs. All must have a class with
    /// data.
    Status read_untouched(std::uint64_t first, std::span<std::byte> out) const;
    /// Makes zeroed memory of this block's size, the source of `replace`.
    Result<Mapping> space_for_copy() const;
    /// Moves pages [first, first + count) of `copy` to the same place in this block. The guest must
    /// not run meanwhile. If it fails, the block is unchanged; only if the kernel lacks memory for
    /// its own records are the pages unmapped, and the guest's next access to them ends it.
    Status replace(std::uint64_t first, std::uint64_t count, const Mapping& copy);
    /// Drops the origin. The caller has replaced or overlaid every page before, so that an
    /// untouched page is zeros. The block is anonymous from then on.
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
    // Declared before mapping_, so that it is destroyed after it: the pin ends when nothing maps
    // the file.
    std::shared_ptr<const PageOrigin> origin_;
    Mapping mapping_;
    PageTypes types_;
    WriteMarks marks_;
    struct Overlay {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
    };
    std::vector<Overlay> overlays_;
    std::vector<SharedRun> shared_;  // sorted by first page; runs do not overlap
    DiscardGate gate_;
    // A flag for each 2 MiB unit of a restored block. Atomic, since a snapshot reads it while a
    // device discards.
    std::unique_ptr<std::atomic<bool>[]> emptied_;
};

}  // namespace snapvm
