// SPDX-License-Identifier: Apache-2.0
#include "tests/support/forged_area.h"

#include <span>
#include <vector>

#include "snapshot/area/area.h"
#include "snapshot/format/sections.h"
#include "snapshot/restore/restore.h"
#include "tests/support/need.h"
#include "vmm/base/crc32c.h"

namespace snapvm::test {

void forge_area(const AreaPath& to, const SavedMachine& machine, const Uuid& snapshot_id) {
    const std::vector<BlockSpec> blocks = machine.config.blocks();
    AreaWriter area = need(AreaWriter::open(to, {blocks, machine.config.cpus}, 1, {}, {}));
    need(area.begin(machine.config.machine_id, snapshot_id));
    const SlotLayout& slot = area.slot();
    std::vector<Section> sections;
    const auto put = [&](SectionKind kind, std::span<const std::byte> bytes, std::uint64_t offset,
                         std::uint64_t capacity) {
        if (!bytes.empty()) {
            need(area.io().write(IoStep::section, bytes, offset));
        }
        sections.push_back({kind, 0, offset, capacity, bytes.size(), crc32c(bytes)});
    };
    const std::vector<std::byte> start = StartSection{machine.config, blocks}.encode();
    const std::uint64_t start_capacity = align_up(start.size(), kPageSize);
    put(SectionKind::plan, encode_plan({}), slot.plan_offset, kPlanCapacity);
    put(SectionKind::start, start, slot.head_offset, start_capacity);
    put(SectionKind::state, encode_state(machine.records), slot.head_offset + start_capacity,
        slot.head_capacity - start_capacity);
    put(SectionKind::metadata, {}, slot.metadata_offset, kMetadataCapacity);
    put(SectionKind::disks, {}, slot.disks_offset, kDisksCapacity);
    put(SectionKind::working_set, {}, slot.working_set_offset, kWorkingSetCapacity);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const auto id = static_cast<std::uint32_t>(blocks[i].id);
        const std::uint64_t size = blocks[i].pages() * sizeof(std::uint64_t);
        sections.push_back({SectionKind::entries, id, slot.entries_offsets[i], align_up(size, kPageSize), size, 0});
        sections.push_back({SectionKind::data, id, slot.data_offsets[i], blocks[i].size, blocks[i].size, 0});
    }
    need(area.commit(std::move(sections)));
}

void forge_area(const AreaPath& from, const AreaPath& to, const std::function<void(MachineConfig&)>& change) {
    SavedMachine machine;
    Uuid id;
    {
        RestoredSnapshot snapshot = need(open_snapshot(from));
        machine = std::move(snapshot.saved);
        id = snapshot.snapshot_id;
    }
    change(machine.config);
    forge_area(to, machine, id);
}

}  // namespace snapvm::test
