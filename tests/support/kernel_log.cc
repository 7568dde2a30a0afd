// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kernel_log.h"

#include <algorithm>
#include <array>
#include <sstream>
#include <string_view>

namespace snapvm::test {
namespace {

// A virtio driver that fails writes "virtio_blk virtio0: failed to …".
bool virtio_fails(std::string_view line) {
    const std::size_t driver = line.find("virtio_");
    return driver != std::string_view::npos && (line.find(": fail", driver) != std::string_view::npos ||
                                                line.find(": Fail", driver) != std::string_view::npos);
}

}  // namespace

std::string trouble_in(const std::string& log) {
    constexpr std::array<std::string_view, 19> kSigns = {
        "BUG",         "WARNING", "Oops",        "Call Trace", "rcu: INFO",    "rcu_sched",    "soft lockup",
        "hard LOCKUP", "hung",    "blocked for", "unstable",   "general prot", "Kernel panic", "I/O error",
        "EXT4-fs err", "JBD2",    "corrupt",     "Unable to",  "segfault"};
    std::istringstream lines(log);
    std::string found;
    for (std::string line; std::getline(lines, line);) {
        const bool sign =
            std::ranges::any_of(kSigns, [&](std::string_view text) { return line.find(text) != std::string::npos; });
        if (sign || virtio_fails(line)) {
            found += line + "\n";
        }
    }
    return found;
}

}  // namespace snapvm::test
