// SPDX-License-Identifier: Apache-2.0
#include "snapshot/restore/restore.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "snapshot/area/origin.h"
#include "snapshot/area/reader.h"
#include "snapshot/restore/share.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t micros(Clock::duration time) {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

Status check_memory(const SnapshotHead& head, const std::string& name, std::uint64_t most) {
    const std::uint64_t wanted = head.start.config.memory_bytes;
    if (wanted > most) {
        return fail(ErrorKind::unsupported,
                    name + " is of a machine with " + size_text(wanted) + " of memory, and the most is " +
                        size_text(most >> 20 << 20) + " (by default what the host has)",
                    "if you expect that, give --max-mem " + size_text(wanted));
    }
    return {};
}

Result<GuestMemory> map_blocks(const std::shared_ptr<const SnapshotOrigin>& origin, const SnapshotHead& head,
                               const RestoreOptions& options, std::vector<ReservedBlock> reserved,
                               RestoredSnapshot& restored) {
    if (reserved.empty()) {
        reserved = TRY(ReservedBlock::all_of(head.start.blocks));
    } else if (!std::ranges::equal(reserved, head.start.blocks, {}, &ReservedBlock::spec)) {
        return fail(ErrorKind::usage, "the addresses are reserved for other memory blocks than the snapshot's (" +
                                          std::to_string(head.start.config.memory_bytes >> 20) + " MiB)");
    }
    std::vector<MemoryBlock> blocks;
    for (ReservedBlock& place : reserved) {
        const Section* data = origin->superblock().find(SectionKind::data, static_cast<std::uint32_t>(place.spec.id));
        blocks.push_back(TRY(MemoryBlock::snapshot(std::move(place), origin->file().fd.get(),
                                                   origin->file().base + data->offset, origin)));
    }
    for (const PlanRun& run : head.plan) {
        if (restored.overlays >= options.max_overlays || run.count * kPageSize < options.min_overlay_bytes) {
            break;  // the plan is sorted, longest run first
        }
        auto block = std::ranges::find(blocks, run.block, [](const MemoryBlock& b) { return b.spec().id; });
        TRY(block->overlay_anonymous(run.first, run.count));
        ++restored.overlays;
    }
    if (options.share) {
        // The overlays take precedence, because they are for memory without data.
        const SharingReport shared =
            TRY(share_pages(*origin, blocks, {options.max_shared_runs, options.min_shared_bytes / kPageSize}));
        restored.shared_runs = shared.runs;
        restored.shared_pages = shared.pages;
    }
    return GuestMemory::of(std::move(blocks));
}

}  // namespace

Result<RestoredSnapshot> open_snapshot(const AreaPath& path, const RestoreOptions& options,
                                       std::vector<ReservedBlock> reserved) {
    const auto start = Clock::now();
    PinnedSnapshot pinned = TRY(pin_snapshot(path, options.salvage));
    SnapshotHead head = TRY(check_snapshot(pinned));
    TRY(check_memory(head, pinned.file.name, options.max_memory_bytes));
    RestoredSnapshot restored;
    restored.snapshot_id = pinned.superblock.snapshot_id;
    restored.area = TRY(AreaIdentity::of(pinned.file));
    restored.sequence = pinned.superblock.sequence;
    restored.slot = pinned.superblock.slot;
    restored.lost = std::move(pinned.lost);
    const auto read = Clock::now();
    const auto origin = std::make_shared<const SnapshotOrigin>(std::move(pinned.file), std::move(pinned.superblock));
    restored.memory = TRY(map_blocks(origin, head, options, std::move(reserved), restored));
    restored.saved = {std::move(head.start.config), std::move(head.records)};
    restored.read_us = micros(read - start);
    restored.map_us = micros(Clock::now() - read);
    return restored;
}

Result<MachineConfig> config_in(const AreaPath& path) {
    const PinnedSnapshot pinned = TRY(pin_snapshot(path, /*salvage=*/false));
    return TRY(check_snapshot(pinned)).start.config;
}

}  // namespace snapvm
