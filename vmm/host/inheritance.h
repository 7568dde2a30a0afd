// SPDX-License-Identifier: Apache-2.0
// What a process takes over from the one that started it: standard streams and signals.
#pragma once

#include <signal.h>

#include "vmm/base/error.h"

namespace snapvm {

/// Opens those of descriptors 0 to 2 that are closed, so that no file gets one of these numbers,
/// and ignores SIGXFSZ, so that a file at its size limit (ulimit -f) is an error of the write. Must
/// be called first in main().
void mend_inheritance();

/// Connects descriptor `fd` to /dev/null. In a root without /dev/null it becomes an end of a pipe
/// whose other end is closed: nothing can be read, and writes fail with EPIPE. Fails with system.
Status connect_to_null(int fd);

/// Returns the signals that end a run: SIGTERM, SIGINT and SIGHUP. Leaves SIGINT and SIGHUP out if
/// they are ignored: who started the process (nohup, a shell's background job) wants it to outlive
/// them.
[[nodiscard]] sigset_t ending_signals();

}  // namespace snapvm
