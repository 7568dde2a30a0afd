// SPDX-License-Identifier: Apache-2.0
// Reports what an area holds, for `snapvm inspect [--json]`.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/area/area_path.h"
#include "snapshot/format/sections.h"
#include "snapshot/format/superblock.h"
#include "snapshot/write/report.h"
#include "vmm/base/error.h"
#include "vmm/memory/page_class.h"

namespace snapvm {

/// One superblock: decoded, or the reason why it cannot be.
struct SuperblockInfo {
    std::optional<Superblock> valid;
    std::string problem;  ///< empty if valid
};

/// The pages of one block, by class.
struct BlockInfo {
    BlockSpec spec;
    std::array<std::uint64_t, kPageClassCount> pages{};  ///< by PageClass
    std::uint64_t bad_entries = 0;                       ///< entries that cannot be decoded
};

/// What inspect_area() finds: everything but page data and the contents of state records.
struct AreaInfo {
    std::string area;          ///< PATH[@OFFSET] as given
    bool device = false;
    std::uint64_t room = 0;    ///< bytes from the area's start to the end of the file or device
    std::array<SuperblockInfo, kSuperblockCopies> superblocks;
    std::optional<std::uint32_t> chosen;  ///< index of the superblock whose snapshot a restore would use
    std::string problem;       ///< why a restore would fail; empty if it would not
    std::string lost;          ///< which older snapshot is damaged, though a restore works; empty if none
    // Of the newest complete snapshot; empty if there is none or it is damaged.
    std::optional<MachineConfig> config;
    std::vector<std::uint64_t> disk_bytes;  ///< of the disks of `config`; 0 if its record is not readable
    std::uint64_t created_us = 0;           ///< microseconds since 1970, by the writer's clock
    std::vector<BlockInfo> blocks;
    std::vector<PlanRun> plan;
    std::vector<RecordInfo> records;
    std::string metadata;
    std::string metadata_problem;  ///< why it cannot be shown; a restore does not read it
};

/// Reads an area without changing it, as far as it can be decoded. For an incomplete or damaged one
/// it returns what there is, with `problem` set. Fails only if the file cannot be opened, is not an
/// area, or has a newer version. Pins the slot while it reads.
Result<AreaInfo> inspect_area(const AreaPath& path);

/// Returns the text of `snapvm inspect` without --json.
[[nodiscard]] std::string to_text(const AreaInfo& info);

// Return one line of JSON (json.cc), for the command line and the API.
[[nodiscard]] std::string to_json(const AreaInfo& info);
[[nodiscard]] std::string to_json(const SnapshotReport& report);

}  // namespace snapvm
