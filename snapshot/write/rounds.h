// SPDX-License-Identifier: Apache-2.0
// A snapshot of a machine that runs: rounds, the pause, and the writes after it.
#pragma once

#include "snapshot/source/source.h"
#include "snapshot/write/job.h"
#include "snapshot/write/options.h"
#include "snapshot/write/report.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Makes a snapshot in mode live or precopy. Fails with unsupported if the source cannot tell which
/// pages are written.
Status write_live(SnapshotSource& source, SnapshotJob& job, const WriteOptions& options, SnapshotReport& report);

}  // namespace snapvm
