// SPDX-License-Identifier: Apache-2.0
// Encoders and decoders of the small sections of a snapshot: machine start, machine state, map plan
// (FORMAT.md has the same names).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/config/machine_config.h"
#include "vmm/memory/block.h"
#include "vmm/state/state_record.h"

namespace snapvm {

/// What a machine is built from before it gets its state: its configuration, and the blocks whose
/// memory the area holds.
struct StartSection {
    MachineConfig config;
    std::vector<BlockSpec> blocks;

    [[nodiscard]] std::vector<std::byte> encode() const;
    /// Decodes untrusted bytes. Fails with invalid if blocks overlap, are unaligned, or if their
    /// sizes do not add up to the recorded total.
    static Result<StartSection> decode(std::span<const std::byte> bytes);
};

/// The header of a state record in a section, for inspection.
struct RecordInfo {
    RecordKind kind{};
    std::uint16_t version = 0;
    std::uint32_t instance = 0;
    std::uint32_t length = 0;
    std::uint32_t crc = 0;
};

[[nodiscard]] std::vector<std::byte> encode_state(std::span<const StateRecord> records);
/// Decodes untrusted bytes. Fails with invalid if the checksum of a record is wrong, or if bytes
/// are left over. Appends the records' headers to `infos`, if given.
Result<std::vector<StateRecord>> decode_state(std::span<const std::byte> bytes,
                                              std::vector<RecordInfo>* infos = nullptr);

inline constexpr std::size_t kMaxPlanRuns = 64;

/// A run of whole 2 MiB ranges that hold no data. They are aligned to 2 MiB in the block and in
/// guest memory. Numbers are pages of the block.
struct PlanRun {
    BlockId block{};
    std::uint64_t first = 0;
    std::uint64_t count = 0;

    friend bool operator==(const PlanRun&, const PlanRun&) = default;
};

[[nodiscard]] std::vector<std::byte> encode_plan(std::span<const PlanRun> runs);
/// Decodes untrusted bytes. Fails with invalid if there are more than kMaxPlanRuns runs, if one is
/// not aligned to 2 MiB or not within one of `blocks`, or if two overlap.
Result<std::vector<PlanRun>> decode_plan(std::span<const std::byte> bytes, std::span<const BlockSpec> blocks);

}  // namespace snapvm
