// SPDX-License-Identifier: Apache-2.0
// Says in one line why the process dies of a signal.
#pragma once

#include <functional>
#include <string>

#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// Installs handlers for SIGBUS, SIGSEGV and SIGABRT, except where there is one already (that of a
/// sanitizer). They write a line to stderr that begins with `name`, and end the process with exit
/// code 1, or by the signal if core dumps are enabled (ulimit -c). For a program; a library leaves
/// signals to its program. Must be called before any thread is started.
void report_fatal_signals(const std::string& name);

/// Has the handlers also write the outcome of the run into a new file: the text that `outcome`
/// makes of the line's message, which it does here and in name_snapshot_of(). `folder` must stay
/// open. Must be called after report_fatal_signals(), at any time and on any thread.
void keep_fatal_outcome(int folder, const char* file, std::function<std::string(const std::string& message)> outcome);

/// Has a SIGBUS in memory that maps a snapshot's file name that snapshot: the file was cut short or
/// its disk failed. A later call replaces an earlier one, at any time and on any thread.
void name_snapshot_of(const GuestMemory& memory);

}  // namespace snapvm
