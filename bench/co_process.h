// SPDX-License-Identifier: Apache-2.0
// The in-process measurements of our side run in a process of their own (this program again, `--worker NAME …`), as those of the floor do,
// so that neither carries the other's memory.
#pragma once

#include <span>
#include <string>

#include "bench/report.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// `--worker restore AREA`: as raw_restore --serve. `--worker boot MEM CMDLINE`: boots once and prints the parts.
Result<int> run_worker(std::span<const std::string> arguments);

/// A line of `name=number`, numbers divided by `divisor`.
[[nodiscard]] Parts parse_parts(const std::string& line, double divisor);
/// From times since one start to the time each step took.
[[nodiscard]] Parts steps_of(const Parts& since_start);

}  // namespace snapvm::bench
