// SPDX-License-Identifier: Apache-2.0
// The texts of /proc and /sys that the doctor reads. Pure functions of the text, so that every host's can be a test.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace snapvm::doctor {

/// "always [madvise] never" is "madvise"; a text without brackets is itself, trimmed.
[[nodiscard]] std::string chosen_word(std::string_view text);
/// A decimal number with white space around it; nothing for anything else ("max").
[[nodiscard]] std::optional<std::uint64_t> parse_number(std::string_view text);
/// A line of /proc/meminfo, in bytes (the pages of HugePages_… as they are).
[[nodiscard]] std::optional<std::uint64_t> meminfo_value(std::string_view text, std::string_view key);
/// What follows "key\t: " in /proc/cpuinfo, of the first processor.
[[nodiscard]] std::string cpuinfo_value(std::string_view text, std::string_view key);

/// Where one controller's hierarchy is mounted, out of /proc/mounts.
struct CgroupMount {
    std::string path;
    bool version_2 = false;
    bool favordynmods = false;
};
/// The cgroup v1 hierarchy of `controller`; nothing where it is not mounted.
[[nodiscard]] std::optional<CgroupMount> find_cgroup_v1(std::string_view mounts, std::string_view controller);
[[nodiscard]] std::optional<CgroupMount> find_cgroup_v2(std::string_view mounts);
/// This process' path in a v1 controller's hierarchy, or the unified one with an empty `controller`, out of /proc/self/cgroup.
[[nodiscard]] std::optional<std::string> cgroup_path(std::string_view text, std::string_view controller);
/// cpu.max: "150000 100000" is 1.5 CPUs; "max 100000" nothing.
[[nodiscard]] std::optional<double> cpu_max(std::string_view text);

}  // namespace snapvm::doctor
