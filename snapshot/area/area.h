// SPDX-License-Identifier: Apache-2.0
// An area as the place that a snapshot is written into. It is opened, checked and locked before the
// guest stops, and committed at the end.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "snapshot/area/area_file.h"
#include "snapshot/area/area_io.h"
#include "snapshot/area/pins.h"
#include "snapshot/area/progress.h"
#include "snapshot/area/superblock_pair.h"
#include "snapshot/format/layout.h"
#include "vmm/base/error.h"
#include "vmm/base/opener.h"

namespace snapvm {

/// What the layout of an area follows from, beside its number of slots.
struct AreaShape {
    std::vector<BlockSpec> blocks;
    std::uint32_t cpus = 1;
};

/// Options of create_area().
struct CreateOptions {
    std::uint32_t slots = 1;
    /// Overwrites another area, a file system or other data. A device that is mounted and an area
    /// that a machine maps are refused all the same.
    bool force = false;
    MachineNames names = {};  ///< name the machines in a refusal
    Progress progress = {};  ///< in bytes of the area
};

/// Makes a file or a block device an empty area, as `snapvm area create` does, and zeroes its
/// range. Returns the size of the area in bytes. Fails with busy if the device is mounted or the
/// range is locked. Fails with usage if a device is too small, and without `force` if it finds a
/// file system, a partition table, an area or any other data.
Result<std::uint64_t> create_area(const AreaPath& path, const AreaShape& shape, const CreateOptions& options);

/// An area that is locked for one new snapshot. Construct it before the guest stops: everything
/// that can be refused is refused then. Call begin(), write through io() at the offsets of slot(),
/// then call commit(). No write may be in flight when it is destroyed; then it gives its locks
/// back. If it is destroyed before commit(), a file that it has created is removed; otherwise the
/// older snapshot stays (before begin(), or in the other slot), or the area says that it is
/// incomplete. One thread.
class AreaWriter {
public:
    /// Opens the area (AreaFile::open_or_create) and takes the write locks. A new file is sparse
    /// and has `new_slots` slots. Fails with busy if another writer has it, or if machines map
    /// every slot; with invalid if it has other content, is truncated, or has another size; with
    /// unsupported if its version is newer. `names` names the machines in the busy message.
    static Result<AreaWriter> open(const AreaPath& path, const AreaShape& shape, std::uint32_t new_slots, IoHook hook,
                                   MachineNames names);
    AreaWriter(AreaWriter&&) noexcept = default;
    AreaWriter& operator=(AreaWriter&&) = delete;
    ~AreaWriter();

    [[nodiscard]] const AreaFile& file() const { return file_; }
    [[nodiscard]] const AreaLayout& layout() const { return layout_; }
    [[nodiscard]] const SlotLayout& slot() const { return layout_.slots[slot_]; }
    [[nodiscard]] std::uint32_t slot_index() const { return slot_; }
    /// After commit(): the sequence number of the snapshot.
    [[nodiscard]] std::uint64_t sequence() const { return sequence_; }
    /// Whether everything behind the superblocks is known to read as zeros.
    [[nodiscard]] bool fresh() const { return fresh_; }
    /// Returns which snapshot is damaged and is given up with begin(); empty if none.
    [[nodiscard]] const std::string& lost() const { return lost_; }
    /// Returns the superblock of the complete snapshot that the slot holds until begin(); null if
    /// the slot holds none.
    [[nodiscard]] const Superblock* previous() const { return previous_ ? &*previous_ : nullptr; }
    AreaIo& io() { return *io_; }
    [[nodiscard]] const AreaIo& io() const { return *io_; }
    /// Opens a second descriptor with O_DIRECT, which page data can be written to. Returns it, or
    /// -1 if the file cannot be opened so. It stays owned by this object and takes over the lock of
    /// the slot. Fails with busy if a reader has locked the slot in between. Call it before
    /// begin().
    Result<int> open_direct();

    /// Writes and flushes the state `writing`. The slot holds no snapshot from here on. If the area
    /// is fresh(), nothing is lost, so it need not wait until the guest is stopped.
    Status begin(const Uuid& machine, const Uuid& snapshot);
    /// Flushes what was written, makes the snapshot valid by one write of a superblock header, and
    /// flushes that write.
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
    std::uint32_t copy_ = 0;  ///< index of the superblock that will say `complete`
    std::uint64_t sequence_ = 0;  // of the newest header written here; 0 before begin()
    std::uint64_t highest_ = 0;  // highest sequence number that the area had when it was opened
    std::array<std::uint32_t, kSuperblockCopies> table_crcs_{};  // of the section tables on disk
    bool both_blank_ = false;  // the file had no superblocks
    bool fresh_ = false;
    /// Of a file that was created here; with nothing committed, the destructor removes it.
    std::optional<FolderEntry> created_;
    std::optional<Superblock> previous_;
    std::string lost_;
    Uuid machine_;
    Uuid snapshot_;
    std::unique_ptr<AreaIo> io_;
};

}  // namespace snapvm
