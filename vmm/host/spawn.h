// SPDX-License-Identifier: Apache-2.0
// Starts an instance in a process of its own, which goes on when this one has ended.
#pragma once

#include "vmm/base/error.h"
#include "vmm/host/start_report.h"
#include "vmm/host/vm_process.h"

namespace snapvm {

/// Forks, and has the child run the instance (VmProcess::run) in a session of its own, without
/// stdin and stdout. Once it has started, its stderr is its log. The child exits with the code of
/// the outcome. Returns when the machine runs, or the instance waits for one. Fails with usage or
/// system, with the child's message. A signal that ends a run and that the caller blocks
/// (inheritance.h) ends the child if it has not started yet. Must be called before any thread is
/// started.
Result<StartReport> spawn(VmProcessOptions options, VmProcessEvents events);

}  // namespace snapvm
