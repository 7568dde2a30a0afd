// SPDX-License-Identifier: Apache-2.0
// Areas as things to write into: opened, checked and locked before anything of a guest stops; committed at the end.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "snapshot/area_file.h"
#include "snapshot/io.h"
#include "snapshot/layout.h"
#include "snapshot/pins.h"
#include "snapshot/progress.h"
#include "snapshot/superblock_pair.h"
#include "vmm/base/error.h"

namespace snapvm {

/// What an area must fit.
struct AreaShape {
    std::vector<BlockSpec> blocks;
    std::uint32_t cpus = 1;
};

struct CreateOptions {
    std::uint32_t slots = 1;
    bool force = false;  ///< overwrite what is there: another area, a file system. Never one that is mounted or mapped by a machine
    MachineNames names = {};  ///< for the refusal
    Progress progress = {};  ///< in bytes zeroed
};

/// `snapvm area create`: makes an empty area of a file or a block device, zeroing a device's range once. Refuses (busy) what is mounted
/// or in use, and without `force` (usage) what holds a file system, a partition table, an area, or any other data.
/// Returns the area's size in bytes.
Result<std::uint64_t> create_area(const AreaPath& path, const AreaShape& shape, const CreateOptions& options);

/// An area locked for one new snapshot. Construct it before the guest stops: everything that can be refused is refused then.
/// begin(), then write through io() and into layout(), then commit(). Destroyed, with nothing in flight any more, it gives its locks back. Dropped before commit(): a file that this created is removed, an
/// older snapshot stays (before begin(), or in the other slot), or the area says that it is incomplete.
class AreaWriter {
public:
    /// Opens the area, or creates it as a sparse file (0600) with `new_slots` slots when there is no such file. Takes the write locks.
    /// busy: another writer, or (one slot) a machine that maps the snapshot; invalid: foreign content, truncated, or an area of another
    /// size; unsupported: of a newer version. `names` is for the refusal of what a machine maps.
    static Result<AreaWriter> open(const AreaPath& path, const AreaShape& shape, std::uint32_t new_slots, IoHook hook,
                                   MachineNames names);
    AreaWriter(AreaWriter&&) noexcept = default;
    AreaWriter& operator=(AreaWriter&&) = delete;
    ~AreaWriter();

    [[nodiscard]] const AreaFile& file() const { return file_; }
    [[nodiscard]] const AreaLayout& layout() const { return layout_; }
    [[nodiscard]] const SlotLayout& slot() const { return layout_.slots[slot_]; }
    [[nodiscard]] std::uint32_t slot_index() const { return slot_; }
    [[nodiscard]] std::uint64_t sequence() const { return sequence_; }
    /// Whether everything past the superblocks is known to read as zeros.
    [[nodiscard]] bool fresh() const { return fresh_; }
    /// The superblock of the complete snapshot that the slot holds until begin(); null when there is none to be believed.
    [[nodiscard]] const Superblock* previous() const { return previous_ ? &*previous_ : nullptr; }
    AreaIo& io() { return *io_; }
    [[nodiscard]] const AreaIo& io() const { return *io_; }
    /// A second descriptor for page data that goes around the page cache (O_DIRECT), owned by this; -1 where the file system has no
    /// such thing. Takes over the slot's lock; busy when a reader came in between. Before begin().
    Result<int> open_direct();

    /// Writes and flushes the state `writing`. From here on the slot holds nothing; where it held nothing before (fresh()), there is no
    /// need to wait with it until the guest is stopped.
    Status begin(const Uuid& machine, const Uuid& snapshot);
    /// Flushes what was written, then makes the snapshot valid by one write of a superblock header, and flushes that.
    Status commit(std::vector<Section> sections);

private:
    AreaWriter(AreaFile file, AreaLayout layout) : file_(std::move(file)), layout_(std::move(layout)) {}
    Status adopt(const SuperblockPair& pair);
    Status lock_slot(const SuperblockPair& pair);
    Status lock_unpinned(int fd, std::uint64_t offset, std::uint64_t size, std::string_view who) const;
    [[nodiscard]] Superblock superblock_for(std::uint32_t copy) const;

    AreaFile file_;
    UniqueFd direct_;
    AreaLayout layout_;
    MachineNames names_;
    std::uint32_t slot_ = 0;
    std::uint32_t copy_ = 0;  ///< the superblock that will say `complete`
    std::uint64_t sequence_ = 0;
    std::uint64_t highest_ = 0;
    std::array<std::uint32_t, kSuperblockCopies> table_crcs_{};
    bool both_blank_ = false;
    bool fresh_ = false;
    bool remove_ = false;
    std::optional<Superblock> previous_;
    Uuid machine_;
    Uuid snapshot_;
    std::unique_ptr<AreaIo> io_;
};

}  // namespace snapvm
