// SPDX-License-Identifier: Apache-2.0
// The small sections of a snapshot, to and from bytes: machine start, machine state, map plan (FORMAT.md, same names).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/state_record.h"
#include "vmm/machine/config.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// What a machine is built from, before its state: configuration, and the blocks whose memory the area holds.
struct StartSection {
    MachineConfig config;
    std::vector<BlockSpec> blocks;

    [[nodiscard]] std::vector<std::byte> encode() const;
    /// Untrusted bytes. Refuses blocks that overlap, are unaligned, or whose total is not the one recorded.
    static Result<StartSection> decode(std::span<const std::byte> bytes);
};

/// A state record as it stands in a section: for inspection, without its bytes.
struct RecordInfo {
    RecordKind kind{};
    std::uint16_t version = 0;
    std::uint32_t instance = 0;
    std::uint32_t length = 0;
    std::uint32_t crc = 0;
};

[[nodiscard]] std::vector<std::byte> encode_state(std::span<const StateRecord> records);
/// Untrusted bytes; every record's checksum is verified and all bytes must be consumed.
Result<std::vector<StateRecord>> decode_state(std::span<const std::byte> bytes, std::vector<RecordInfo>* infos = nullptr);

inline constexpr std::size_t kMaxPlanRuns = 64;

/// Pages of a block that hold no data: whole 2 MiB ranges, in the guest as in the block.
struct PlanRun {
    BlockId block{};
    std::uint64_t first = 0;
    std::uint64_t count = 0;

    friend bool operator==(const PlanRun&, const PlanRun&) = default;
};

[[nodiscard]] std::vector<std::byte> encode_plan(std::span<const PlanRun> runs);
/// Untrusted bytes: at most kMaxPlanRuns, each 2 MiB-aligned within one of `blocks`, none over another.
Result<std::vector<PlanRun>> decode_plan(std::span<const std::byte> bytes, std::span<const BlockSpec> blocks);

}  // namespace snapvm
