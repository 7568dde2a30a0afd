// SPDX-License-Identifier: Apache-2.0
#include "vmm/doctor/parse.h"

#include <algorithm>
#include <charconv>
#include <vector>

namespace snapvm::doctor {
namespace {

constexpr std::string_view kSpace = " \t\n";

std::string_view trimmed(std::string_view text) {
    const auto first = text.find_first_not_of(kSpace);
    if (first == std::string_view::npos) {
        return {};
    }
    return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

// Returns the parts between `separators`, without empty ones.
std::vector<std::string_view> split(std::string_view text, std::string_view separators) {
    std::vector<std::string_view> pieces;
    while (!text.empty()) {
        const auto end = std::min(text.find_first_of(separators), text.size());
        if (end > 0) {
            pieces.push_back(text.substr(0, end));
        }
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return pieces;
}

bool contains(const std::vector<std::string_view>& words, std::string_view word) {
    for (const std::string_view candidate : words) {
        if (candidate == word) {
            return true;
        }
    }
    return false;
}

struct MountLine {
    std::string_view path, type;
    std::vector<std::string_view> options;
};

// A line of /proc/mounts has device, path, type, options and two numbers (proc(5)).
std::vector<MountLine> mount_lines(std::string_view mounts) {
    std::vector<MountLine> lines;
    for (const std::string_view line : split(mounts, "\n")) {
        const auto fields = split(line, " ");
        if (fields.size() >= 4) {
            lines.push_back({.path = fields[1], .type = fields[2], .options = split(fields[3], ",")});
        }
    }
    return lines;
}

CgroupMount to_mount(const MountLine& line, bool version_2) {
    return {
        .path = std::string(line.path), .version_2 = version_2, .favordynmods = contains(line.options, "favordynmods")};
}

}  // namespace

std::string chosen_word(std::string_view text) {
    const auto open = text.find('[');
    const auto close = text.find(']', open == std::string_view::npos ? 0 : open);
    if (open == std::string_view::npos || close == std::string_view::npos) {
        return std::string(trimmed(text));
    }
    return std::string(text.substr(open + 1, close - open - 1));
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
    text = trimmed(text);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc{} || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return value;
}

std::optional<std::uint64_t> meminfo_value(std::string_view text, std::string_view key) {
    for (const std::string_view line : split(text, "\n")) {
        const auto fields = split(line, ": \t");
        if (fields.size() >= 2 && fields[0] == key) {
            const auto value = parse_number(fields[1]);
            return value && fields.size() > 2 && fields[2] == "kB" ? *value * 1024 : value;
        }
    }
    return std::nullopt;
}

std::string cpuinfo_value(std::string_view text, std::string_view key) {
    for (const std::string_view line : split(text, "\n")) {
        const auto colon = line.find(':');
        if (colon != std::string_view::npos && trimmed(line.substr(0, colon)) == key) {
            return std::string(trimmed(line.substr(colon + 1)));
        }
    }
    return {};
}

std::optional<CgroupMount> find_cgroup_v1(std::string_view mounts, std::string_view controller) {
    for (const MountLine& line : mount_lines(mounts)) {
        if (line.type == "cgroup" && contains(line.options, controller)) {
            return to_mount(line, false);
        }
    }
    return std::nullopt;
}

std::optional<CgroupMount> find_cgroup_v2(std::string_view mounts) {
    for (const MountLine& line : mount_lines(mounts)) {
        if (line.type == "cgroup2") {
            return to_mount(line, true);
        }
    }
    return std::nullopt;
}

std::optional<std::string> cgroup_path(std::string_view text, std::string_view controller) {
    for (const std::string_view line : split(text, "\n")) {
        // A line has hierarchy number, controllers and path. The unified hierarchy has number 0 and
        // no controllers (cgroups(7)).
        const auto first = line.find(':');
        const auto second = first == std::string_view::npos ? first : line.find(':', first + 1);
        if (second == std::string_view::npos) {
            continue;
        }
        const std::string_view controllers = line.substr(first + 1, second - first - 1);
        if (controller.empty() ? controllers.empty() : contains(split(controllers, ","), controller)) {
            return std::string(line.substr(second + 1));
        }
    }
    return std::nullopt;
}

std::optional<double> cpu_max(std::string_view text) {
    const auto fields = split(text, kSpace);
    if (fields.size() != 2) {
        return std::nullopt;
    }
    const auto quota = parse_number(fields[0]);
    const auto period = parse_number(fields[1]);
    if (!quota || !period || *period == 0) {
        return std::nullopt;
    }
    return static_cast<double>(*quota) / static_cast<double>(*period);
}

}  // namespace snapvm::doctor
