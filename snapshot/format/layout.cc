// SPDX-License-Identifier: Apache-2.0
#include "snapshot/format/layout.h"

#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kStateCapacity = 256ULL << 10;
constexpr std::uint64_t kStateCapacityPerCpu = 32ULL << 10;
constexpr std::uint64_t kMaxMemory = 1ULL << 56;

// Allots page-aligned ranges one behind the other.
class Room {
public:
    explicit Room(std::uint64_t at) : at_(at) {}
    std::uint64_t take(std::uint64_t size, std::uint64_t alignment = kPageSize) {
        const std::uint64_t start = align_up(at_, alignment);
        at_ = align_up(start + size, kPageSize);
        return start;
    }
    [[nodiscard]] std::uint64_t at() const { return at_; }

private:
    std::uint64_t at_;
};

SlotLayout lay_out_slot(std::span<const BlockSpec> blocks, std::uint32_t cpus, std::uint64_t offset) {
    SlotLayout slot;
    slot.offset = offset;
    Room room(offset);
    // The sections that a restore reads come first and close together. One read from the start of
    // the area gets them with the superblocks, if the slot is the first and the sections are small.
    slot.plan_offset = room.take(kPlanCapacity);
    slot.head_capacity = kStartCapacity + kStateCapacity + cpus * kStateCapacityPerCpu;
    slot.head_offset = room.take(slot.head_capacity);
    slot.metadata_offset = room.take(kMetadataCapacity);
    slot.disks_offset = room.take(kDisksCapacity);
    slot.working_set_offset = room.take(kWorkingSetCapacity);
    for (const BlockSpec& block : blocks) {
        slot.entries_offsets.push_back(room.take(block.pages() * sizeof(std::uint64_t)));
    }
    for (const BlockSpec& block : blocks) {
        slot.data_offsets.push_back(room.take(block.size, block.size >= kHugePageSize ? kHugePageSize : kPageSize));
    }
    slot.size = room.at() - offset;
    return slot;
}

}  // namespace

Result<AreaLayout> AreaLayout::of(std::span<const BlockSpec> blocks, std::uint32_t cpus, std::uint32_t slots) {
    if (slots < 1 || slots > 2) {
        return fail(ErrorKind::usage, "an area cannot have " + std::to_string(slots) + " slots", "give 1 or 2");
    }
    if (blocks.empty() || blocks.size() > kMaxBlocks || cpus < 1) {
        return fail(ErrorKind::usage, "an area cannot be for " + std::to_string(blocks.size()) + " memory blocks and " +
                                          std::to_string(cpus) + " vCPUs");
    }
    AreaLayout layout;
    layout.cpus = cpus;
    for (const BlockSpec& block : blocks) {
        if (block.size == 0 || !is_page_aligned(block.size) || block.size > kMaxMemory) {
            return fail(ErrorKind::usage,
                        "memory block " + std::string(name_of(block.id)) + " has a size that an area cannot hold");
        }
        layout.memory_bytes += block.size;
    }
    std::uint64_t at = kSlotsStart;
    for (std::uint32_t i = 0; i < slots; ++i) {
        layout.slots.push_back(lay_out_slot(blocks, cpus, at));
        at += layout.slots.back().size;
    }
    layout.size = at;
    return layout;
}

Result<std::uint64_t> area_size(const MachineConfig& config, std::uint32_t slots) {
    TRY(config.validate());
    const AreaLayout layout = TRY(AreaLayout::of(config.blocks(), config.cpus, slots));
    return layout.size;
}

}  // namespace snapvm
