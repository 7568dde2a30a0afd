// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/area.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "vmm/base/crc32c.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::string_view kPinned = "a machine maps the snapshot in it";

std::uint64_t now_us() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(now).count());
}

// The name of a new file survives a power loss only if its directory is flushed too.
Status flush_directory_of(const FolderEntry& entry, const std::string& path) {
    const UniqueFd fd = TRY(opener().open(entry.folder(), ".", O_RDONLY | O_DIRECTORY, 0));
    if (::fsync(fd.get()) != 0 && errno != EINVAL) {
        return fail(Error::system("fsync", "the folder of " + path, errno));
    }
    return {};
}

// Accepts a file that is not an area yet only if the range of the area holds no data.
Status check_empty(const AreaFile& file, std::uint64_t size) {
    if (file.device) {
        return fail(ErrorKind::invalid, file.name + " is a block device and not a snapshot area",
                    "make it one with snapvm area create " + file.name);
    }
    const off_t data = ::lseek(file.fd.get(), static_cast<off_t>(file.base), SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        return fail(Error::system("lseek SEEK_DATA", file.name, errno));
    }
    if (data >= 0 && static_cast<std::uint64_t>(data) < file.base + size) {
        return fail(ErrorKind::invalid, file.name + " holds data that is not a snapshot area",
                    "give another path, or overwrite it with snapvm area create --force");
    }
    return {};
}

Status grow_file(const AreaFile& file, std::uint64_t size) {
    if (::ftruncate(file.fd.get(), static_cast<off_t>(file.base + size)) != 0) {
        return fail(Error::system("ftruncate", file.name, errno));
    }
    return {};
}

}  // namespace

Result<AreaWriter> AreaWriter::open(const AreaPath& path, const AreaShape& shape, std::uint32_t new_slots, IoHook hook,
                                    MachineNames names) {
    AreaLayout layout = TRY(AreaLayout::of(shape.blocks, shape.cpus, new_slots));
    std::optional<FolderEntry> created;
    AreaFile file = TRY(AreaFile::open_or_create(path, created));
    AreaWriter writer(std::move(file), std::move(layout));
    writer.created_ = std::move(created);
    writer.names_ = std::move(names);
    const AreaFile& area = writer.file_;
    constexpr std::string_view kBusy = "another snapshot is being written into it";
    TRY(writer.lock_unpinned(area.lock_descriptor(), 0, kSlotsStart, kBusy));
    if (!area.device && !open_again(area.opened_path, O_PATH, area.fd.get()).valid()) {
        // Another writer has created it, failed and removed it, between the open and the lock here.
        return fail(ErrorKind::busy, area.name + " is in use: " + std::string(kBusy), "try again");
    }
    const SuperblockPair pair = TRY(SuperblockPair::read(area));
    if (pair.blank()) {
        TRY(check_empty(area, writer.layout_.size));
        if (area.room() < writer.layout_.size) {
            TRY(grow_file(area, writer.layout_.size));
        }
        writer.fresh_ = true;
        writer.both_blank_ = true;
        TRY(writer.lock_unpinned(area.lock_descriptor(), kSlotsStart, writer.layout_.size - kSlotsStart, kPinned));
    } else {
        const Superblock* any = pair.any();
        if (any == nullptr) {
            if (!pair.has_magic()) {
                TRY(check_empty(area, writer.layout_.size));
            }
            // Fails with unsupported for a newer version and with invalid for damage.
            TRY(pair.choose(area.name, false));
            return fail(ErrorKind::invalid, area.name + " is not a snapshot area");
        }
        for (const SuperblockPair::Copy& copy : pair.copies) {
            if (copy.problem && copy.problem->kind() == ErrorKind::unsupported) {
                return fail(*copy.problem);
            }
        }
        writer.layout_ = TRY(AreaLayout::of(shape.blocks, shape.cpus, any->slots));
        if (any->area_size != writer.layout_.size) {
            return fail(ErrorKind::invalid,
                        area.name + " is an area of " + std::to_string(any->area_size) +
                            " bytes, and this machine needs " + std::to_string(writer.layout_.size),
                        "give another path, or make it again with snapvm area create --force");
        }
        if (area.room() < any->area_size) {
            return fail(
                ErrorKind::invalid,
                area.name + " is truncated: " + std::to_string(any->area_size - area.room()) + " bytes are missing",
                "give another path, or make it again with snapvm area create --force");
        }
        TRY(writer.adopt(pair));
    }
    writer.io_ = std::make_unique<AreaIo>(area.fd.get(), area.name, area.base, area.device, std::move(hook));
    return writer;
}

Status AreaWriter::adopt(const SuperblockPair& pair) {
    highest_ = pair.highest_sequence();
    lost_ = pair.what_is_lost();
    fresh_ = highest_ == 0 && pair.copies[0].valid && pair.copies[1].valid;
    for (std::size_t i = 0; i < pair.copies.size(); ++i) {
        table_crcs_[i] = pair.copies[i].table_crc;
    }
    return lock_slot(pair);
}

Status AreaWriter::lock_unpinned(int fd, std::uint64_t offset, std::uint64_t size, std::string_view who) const {
    return snapvm::lock_unpinned(fd, file_, offset, size, who, names_);
}

Status AreaWriter::lock_slot(const SuperblockPair& pair) {
    const Superblock* newest = pair.newest_complete();
    if (layout_.slots.size() == 1) {
        // The two copies alternate: commit() writes the one that does not hold the newest snapshot.
        copy_ = newest != nullptr && pair.copies[0].valid && newest == &*pair.copies[0].valid ? 1 : 0;
        TRY(lock_unpinned(file_.lock_descriptor(), slot().offset, slot().size, kPinned));
        if (newest != nullptr) {
            previous_ = *newest;
        }
        return {};
    }
    slot_ = newest != nullptr && newest->slot == 0 ? 1 : 0;
    Status locked = lock_unpinned(file_.lock_descriptor(), slot().offset, slot().size, kPinned);
    const auto& target = pair.copies[slot_].valid;
    const bool older_is_whole = target && target->state == SlotState::complete;
    if (!locked && locked.error().kind() == ErrorKind::busy && older_is_whole) {
        // A machine maps the older snapshot, which stays whole, so the newer one is written over.
        // If the older one is not whole, the lock belongs to a killed writer whose last writes are
        // still in flight, and the newer snapshot must stay.
        slot_ ^= 1;
        locked = lock_unpinned(file_.lock_descriptor(), slot().offset, slot().size,
                               "machines map the snapshots in both its slots");
    }
    TRY(std::move(locked));
    copy_ = slot_;
    const auto& old = pair.copies[copy_].valid;
    if (old && old->state == SlotState::complete) {
        previous_ = *old;
    }
    return {};
}

AreaWriter::~AreaWriter() {
    // Removes the file while its lock is held. A writer that has opened it meanwhile finds, once it
    // has the lock, that the path no longer names it.
    if (struct stat info{}; created_ && ::fstat(file_.fd.get(), &info) == 0 && created_->is(info)) {
        created_->remove();
    }
    if (file_.fd.valid()) {
        // Unlocks explicitly. After its last write an io_uring may hold the descriptors for a
        // moment longer, and with them the locks. No write is in flight here.
        (void)file_.unlock(0, layout_.size);
        if (direct_.valid()) {
            (void)unlock_range(direct_.get(), file_.base, layout_.size, file_.name);
        }
    }
}

Superblock AreaWriter::superblock_for(std::uint32_t copy) const {
    const std::uint32_t slot = layout_.slots.size() == 2 ? copy : 0;
    Superblock sb;
    sb.area_size = layout_.size;
    sb.machine_id = machine_;
    sb.slots = static_cast<std::uint32_t>(layout_.slots.size());
    sb.slot = slot;
    sb.cpus = layout_.cpus;
    sb.slot_offset = layout_.slots[slot].offset;
    sb.slot_size = layout_.slots[slot].size;
    sb.memory_bytes = layout_.memory_bytes;
    sb.table_crc = table_crcs_[copy];
    sb.created_us = now_us();
    return sb;
}

Result<int> AreaWriter::open_direct() {
    direct_ = open_again(file_.opened_path, O_RDWR | O_DIRECT, file_.fd.get());
    if (!direct_.valid() || file_.lock_fd.valid()) {
        return direct_.get();
    }
    // After a kill of this process its writes stay in flight for a moment, and the slot must stay
    // locked until they end. So the lock belongs to the descriptor that the writes use. Between the
    // unlock and the lock, the lock on the superblocks keeps other writers out.
    TRY(file_.unlock(slot().offset, slot().size));
    TRY(lock_unpinned(direct_.get(), slot().offset, slot().size, kPinned));
    return direct_.get();
}

Status AreaWriter::begin(const Uuid& machine, const Uuid& snapshot) {
    machine_ = machine;
    snapshot_ = snapshot;
    if (both_blank_) {
        const std::vector<std::byte> no_table(kSectionTableSize);
        table_crcs_.fill(crc32c(no_table));
    }
    sequence_ = highest_ + 1;
    // With one slot both copies say `writing`. If only one did, damage to it would make the other
    // one, and with it a half-overwritten snapshot, look complete.
    for (std::uint32_t i = 0; i < kSuperblockCopies; ++i) {
        const bool ours = i == copy_;
        if (layout_.slots.size() == 2 && !ours && !both_blank_) {
            continue;
        }
        Superblock sb = superblock_for(i);
        sb.sequence = layout_.slots.size() == 1 || ours ? sequence_ : 0;
        sb.snapshot_id = sb.sequence == 0 ? Uuid{} : snapshot;
        sb.machine_id = sb.sequence == 0 ? Uuid{} : machine;
        TRY(io_->write(IoStep::superblock, sb.encode_header(), i * kSuperblockSize));
    }
    TRY(io_->flush());
    return created_ ? flush_directory_of(*created_, file_.opened_path) : Status{};
}

Status AreaWriter::commit(std::vector<Section> sections) {
    Superblock sb = superblock_for(copy_);
    sb.sequence = ++sequence_;
    sb.snapshot_id = snapshot_;
    sb.state = SlotState::complete;
    sb.sections = std::move(sections);
    const std::vector<std::byte> table = sb.encode_table();
    sb.table_crc = crc32c(table);
    const std::uint64_t at = copy_ * kSuperblockSize;
    TRY(io_->write(IoStep::section, table, at + kSuperblockHeaderSize));
    TRY(io_->flush());
    TRY(io_->write(IoStep::superblock, sb.encode_header(), at));
    TRY(io_->flush());
    created_.reset();
    return {};
}

}  // namespace snapvm
