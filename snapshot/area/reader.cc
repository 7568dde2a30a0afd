// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/reader.h"

#include <fcntl.h>

#include <algorithm>
#include <string>

#include "snapshot/area/pins.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"
#include "vmm/config/saved_state.h"

namespace snapvm {
namespace {

// Covers both superblocks, the map plan, the start section and the state of a few vCPUs, if the
// slot is the first.
constexpr std::uint64_t kFirstRead = 64ULL << 10;
constexpr std::uint64_t kMaxSmallSection = 64ULL << 20;
constexpr int kRereads = 3;

Status check_not_truncated(const AreaFile& file, const Superblock& superblock) {
    if (file.room() < superblock.area_size) {
        return fail(ErrorKind::invalid, file.name +
                                            " is truncated: " + std::to_string(superblock.area_size - file.room()) +
                                            " of " + std::to_string(superblock.area_size) + " bytes are missing");
    }
    return {};
}

Status pin_slot(const AreaFile& file, const Superblock& superblock) {
    return lock_when_dead_writers_are_done(file.lock_descriptor(), file, false, superblock.slot_offset,
                                           superblock.slot_size, "a snapshot is being written into it");
}

}  // namespace

Result<PinnedSnapshot> pin_snapshot(const AreaPath& path, const Superblock& superblock) {
    PinnedSnapshot pinned;
    pinned.file = TRY(AreaFile::open(path, O_RDONLY));
    pinned.superblock = superblock;
    TRY(check_not_truncated(pinned.file, superblock));
    TRY(pin_slot(pinned.file, superblock));
    return pinned;
}

Result<PinnedSnapshot> pin_snapshot(const AreaPath& path, bool salvage) {
    PinnedSnapshot pinned;
    pinned.file = TRY(AreaFile::open(path, O_RDONLY));
    const AreaFile& file = pinned.file;
    SuperblockPair pair;
    for (int attempt = 0; attempt < kRereads; ++attempt) {
        pinned.head.resize(std::min(kFirstRead, file.room()));
        TRY(file.read(pinned.head, 0));
        pair.bytes.fill(std::byte{0});
        std::ranges::copy(std::span(pinned.head).first(std::min<std::size_t>(pinned.head.size(), kSlotsStart)),
                          pair.bytes.begin());
        pair.decode(file.name);
        const Superblock* chosen = TRY(pair.choose(file.name, salvage));
        TRY(check_not_truncated(file, *chosen));
        TRY(pin_slot(file, *chosen));
        // A writer may have come between the read and the lock. No writer can change the slot now,
        // so reads the superblocks again and compares.
        SuperblockPair again = TRY(SuperblockPair::read(file));
        const Superblock* still = again.newest_complete();
        if (still != nullptr && still->sequence == chosen->sequence && still->slot == chosen->slot) {
            pinned.superblock = *chosen;
            pinned.lost = pair.what_is_lost();
            TRY(pinned.load_head());
            return pinned;
        }
        TRY(file.unlock(chosen->slot_offset, chosen->slot_size));
    }
    return fail(ErrorKind::busy, file.name + " is in use: snapshots are being written into it");
}

Status PinnedSnapshot::load_head() {
    std::uint64_t from = superblock.area_size;
    std::uint64_t to = 0;
    for (const SectionKind kind : {SectionKind::plan, SectionKind::start, SectionKind::state}) {
        const Section* section = superblock.find(kind);
        from = std::min(from, section->offset);
        to = std::max(to, section->offset + section->length);
    }
    if (to > head.size() && to - from <= kMaxSmallSection) {
        head.resize(to - from);
        head_offset = from;
        TRY(file.read(head, from));
    }
    return {};
}

Result<std::vector<std::byte>> PinnedSnapshot::section(SectionKind kind) const {
    const Section* section = superblock.find(kind);
    if (section == nullptr || section->length > kMaxSmallSection) {
        return fail(ErrorKind::invalid,
                    file.name + ": section " + std::string(name_of(kind)) + " is missing or too large");
    }
    std::vector<std::byte> bytes(section->length);
    const std::uint64_t at = section->offset - head_offset;
    if (section->offset >= head_offset && at <= head.size() && section->length <= head.size() - at) {
        std::ranges::copy(std::span(head).subspan(at, section->length), bytes.begin());
    } else {
        TRY(file.read(bytes, section->offset));
    }
    if (crc32c(bytes) != section->crc) {
        return fail(ErrorKind::invalid, file.name + ": section " + std::string(name_of(kind)) + " has a wrong checksum",
                    "the area is damaged: restore another snapshot");
    }
    return bytes;
}

Result<SnapshotHead> check_snapshot(const PinnedSnapshot& snapshot) {
    const Superblock& sb = snapshot.superblock;
    SnapshotHead head;
    const auto within = [&](auto result) {
        if (!result) {
            result = fail(std::move(result.error()).within(snapshot.file.name));
        }
        return result;
    };
    const std::vector<std::byte> start = TRY(snapshot.section(SectionKind::start));
    const std::vector<std::byte> plan = TRY(snapshot.section(SectionKind::plan));
    const std::vector<std::byte> state = TRY(snapshot.section(SectionKind::state));
    head.start = TRY(within(StartSection::decode(start)));
    head.plan = TRY(within(decode_plan(plan, head.start.blocks)));
    head.records = TRY(within(decode_state(state, &head.record_infos)));
    const MachineConfig& config = head.start.config;
    TRY(within(check_records(config, head.records)));
    if (config.blocks() != head.start.blocks) {
        return fail(ErrorKind::invalid,
                    snapshot.file.name + ": its memory blocks are not those of its machine configuration");
    }
    if (config.cpus != sb.cpus || config.machine_id != sb.machine_id) {
        return fail(ErrorKind::invalid,
                    snapshot.file.name + ": the superblock and the machine start section are of different machines");
    }
    std::vector<Section> data;
    std::ranges::copy_if(sb.sections, std::back_inserter(data),
                         [](const Section& s) { return s.kind == SectionKind::data; });
    const auto belongs = [](const BlockSpec& block, const Section& section) {
        return static_cast<std::uint32_t>(block.id) == section.block && block.size == section.length;
    };
    if (!std::ranges::equal(head.start.blocks, data, belongs)) {
        return fail(
            ErrorKind::invalid,
            snapshot.file.name + ": the section table and the machine start section name different memory blocks");
    }
    if (const Section* disks = sb.find(SectionKind::disks); disks->length != 0) {
        return fail(ErrorKind::unsupported,
                    snapshot.file.name + " has a disks section, which this program cannot restore",
                    "use the version of snapvm that wrote it");
    }
    return head;
}

}  // namespace snapvm
