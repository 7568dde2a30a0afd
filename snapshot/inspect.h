// SPDX-License-Identifier: Apache-2.0
// What an area holds, for people and scripts: `snapvm inspect [--json]`.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/area_path.h"
#include "snapshot/sections.h"
#include "snapshot/superblock.h"
#include "snapshot/writer.h"
#include "vmm/base/error.h"
#include "vmm/memory/page_class.h"

namespace snapvm {

/// One superblock: decoded, or what is wrong with it.
struct SuperblockInfo {
    std::optional<Superblock> valid;
    std::string problem;  ///< empty when valid
};

struct BlockInfo {
    BlockSpec spec;
    std::array<std::uint64_t, kPageClassCount> pages{};  ///< by PageClass
    std::uint64_t bad_entries = 0;                       ///< entries of no known class
};

/// Everything but page data and the contents of state records.
struct AreaInfo {
    std::string area;          ///< PATH[@OFFSET] as asked for
    bool device = false;
    std::uint64_t room = 0;    ///< bytes from the area's start to the end of the file or device
    std::array<SuperblockInfo, kSuperblockCopies> superblocks;
    std::optional<std::uint32_t> chosen;  ///< index of the superblock whose snapshot a restore would use
    std::string problem;       ///< why a restore would refuse; empty when it would not
    // Of the chosen snapshot; empty where there is none or it is damaged.
    std::optional<MachineConfig> config;
    std::vector<BlockInfo> blocks;
    std::vector<PlanRun> plan;
    std::vector<RecordInfo> records;
    std::string metadata;
};

/// Looks at an area without changing it, as far as it can be understood: an incomplete or damaged one gives what there is, with
/// `problem` set. Errors only where nothing can be said: no such file, not an area, a newer version. Pins the slot while it reads.
Result<AreaInfo> inspect_area(const AreaPath& path);

/// `inspect` without --json.
[[nodiscard]] std::string to_text(const AreaInfo& info);

// One line of JSON each (report_json.cc), for the command line and the API alike.
[[nodiscard]] std::string to_json(const AreaInfo& info);
[[nodiscard]] std::string to_json(const SnapshotReport& report);

}  // namespace snapvm
