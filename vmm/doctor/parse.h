// SPDX-License-Identifier: Apache-2.0
// Parses the texts of /proc and /sys that the doctor reads. The functions depend on the text alone,
// so that any host's text can be a test case.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace snapvm::doctor {

/// Returns the word in brackets: "always [madvise] never" gives "madvise". Returns a text without
/// brackets trimmed.
[[nodiscard]] std::string chosen_word(std::string_view text);
/// Returns a decimal number that may have white space around it. Returns nothing for any other text
/// ("max").
[[nodiscard]] std::optional<std::uint64_t> parse_number(std::string_view text);
/// Returns a line's value in /proc/meminfo in bytes; HugePages_… are counts and stay as they are.
[[nodiscard]] std::optional<std::uint64_t> meminfo_value(std::string_view text, std::string_view key);
/// Returns the text after "key\t: " in /proc/cpuinfo, for the first processor.
[[nodiscard]] std::string cpuinfo_value(std::string_view text, std::string_view key);

/// The mount point of a cgroup hierarchy, from /proc/mounts.
struct CgroupMount {
    std::string path;
    bool version_2 = false;
    bool favordynmods = false;
};
/// Returns the cgroup v1 hierarchy of `controller`, or nothing if it is not mounted.
[[nodiscard]] std::optional<CgroupMount> find_cgroup_v1(std::string_view mounts, std::string_view controller);
[[nodiscard]] std::optional<CgroupMount> find_cgroup_v2(std::string_view mounts);
/// Returns this process' path in the hierarchy of a v1 controller, or in the unified hierarchy if
/// `controller` is empty, from /proc/self/cgroup.
[[nodiscard]] std::optional<std::string> cgroup_path(std::string_view text, std::string_view controller);
/// Parses cpu.max: "150000 100000" is 1.5 CPUs, "max 100000" is nothing.
[[nodiscard]] std::optional<double> cpu_max(std::string_view text);

}  // namespace snapvm::doctor
