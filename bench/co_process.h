// SPDX-License-Identifier: Apache-2.0
// Our in-process measurements run in a process of their own (this program again, `--worker NAME
// …`), like those of the floor, so that neither side carries the other's memory.
#pragma once

#include <span>
#include <string>

#include "bench/report.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// Runs the worker that the arguments name, and returns the exit code. `restore AREA` works like
/// raw_restore --serve. `boot MEM CMDLINE` boots once and prints the parts. `live`, `load` and
/// `trackers` are described in live_worker.h, load_guest.h and tracker_worker.h.
Result<int> run_worker(std::span<const std::string> arguments);

/// Parses a line of `name=number` words. Numbers are divided by `divisor`.
[[nodiscard]] Parts parse_parts(const std::string& line, double divisor);
/// Converts times since one start to the time that each step took.
[[nodiscard]] Parts steps_of(const Parts& since_start);

}  // namespace snapvm::bench
