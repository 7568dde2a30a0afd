// SPDX-License-Identifier: Apache-2.0
// Moves bytes between a machine's console and the host: output to a descriptor, stdin to the guest, and signals that end the run.
#pragma once

#include <thread>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {

/// Writes all the guest's output to `fd` until the console is closed. The guest waits for it (flow control) when it is slow.
class OutputPump {
public:
    OutputPump(Machine& machine, int fd);
    /// Returns when everything written so far is out; the console must be closed.
    ~OutputPump();

private:
    void run();
    Machine& machine_;
    int fd_;
    std::thread thread_;
};

/// Ends the run on SIGINT and SIGTERM and, with `with_stdin`, feeds stdin to the guest until its end.
class InputPump {
public:
    InputPump(Machine& machine, bool with_stdin);
    ~InputPump();

    /// Blocks those signals for this thread and all it starts later. Call before any thread is started.
    static void block_signals();

private:
    void run();
    bool forward_stdin();

    Machine& machine_;
    bool with_stdin_;
    UniqueFd signals_;
    UniqueFd stop_;
    std::thread thread_;
};

}  // namespace snapvm::cli
