// SPDX-License-Identifier: Apache-2.0
// A snapshot of a machine that runs: rounds, the pause, and what is written behind it (design.md, "Taking it live").
#pragma once

#include "snapshot/attempt.h"
#include "snapshot/source.h"
#include "snapshot/writer.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Modes live and precopy. unsupported where the source cannot tell which pages are written.
Status write_live(SnapshotSource& source, Attempt& attempt, const WriteOptions& options, SnapshotReport& report);

}  // namespace snapvm
