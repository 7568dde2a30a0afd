// SPDX-License-Identifier: Apache-2.0
// Starts all threads of the process.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <thread>

#include "vmm/base/error.h"

namespace snapvm {

/// What a thread does. `ps -L`, /proc/PID/task/TID/comm and debuggers show it as the thread's name.
enum class ThreadRole : std::uint8_t {
    vcpu,      ///< runs a vCPU; the name has its number
    devices,   ///< a machine's event loop
    io,        ///< makes system calls on files if io_uring is unavailable
    snapshot,  ///< makes a snapshot in the background
    faults,    ///< answers page faults of guest memory
    pause,     ///< pauses a machine whose disk cannot write
    throttle,  ///< stops and resumes a machine whose guest writes faster than its pages are copied
    quiet,     ///< makes system calls that must not be interrupted
    api,       ///< accepts and serves API connections
    console,   ///< forwards what is typed at a console
    output,    ///< forwards what a guest writes
    input,     ///< forwards stdin, and waits for signals
    progress,   ///< shows the progress of a command
    end_limit,  ///< ends a process whose regular end takes too long
};
[[nodiscard]] std::string_view name_of(ThreadRole role);

/// Starts a thread with the role's name; `number` is appended to the name of a vCPU's thread.
///
/// The thread blocks all signals except those of its own faults (SIGSEGV, SIGBUS, …), so that the
/// process' signals go to the threads that the program chose for them. Fails with system if the
/// process or its user may have no more threads.
Result<std::thread> start_thread(ThreadRole role, std::function<void()> work, unsigned number = 0);

}  // namespace snapvm
