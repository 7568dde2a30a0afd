// SPDX-License-Identifier: Apache-2.0
// Moves bytes between a machine's lines and the host: output to a descriptor, stdin to the guest, and signals that end the run.
#pragma once

#include <cstdint>
#include <optional>
#include <thread>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {

/// The lines that a machine has to the outside.
enum class Line { serial, console };

/// Writes all of a line's output to `fd` until it is closed. The guest waits for it (flow control) when it is slow.
class OutputPump {
public:
    OutputPump(Machine& machine, Line line, int fd);
    /// Returns when everything written so far is out; the line must be closed.
    ~OutputPump();

private:
    void run();
    Console& console_;
    int fd_;
    std::thread thread_;
};

/// Ends the run on SIGINT and SIGTERM and, where a line is given, feeds stdin to it until its end.
class InputPump {
public:
    InputPump(Machine& machine, std::optional<Line> from_stdin);
    ~InputPump();

    /// Blocks those signals for this thread and all it starts later. Call before any thread is started.
    static void block_signals();

private:
    void run();
    bool read_stdin();
    void send_pending();

    Machine& machine_;
    std::optional<Line> from_stdin_;
    std::vector<std::uint8_t> pending_;  ///< read, and not taken by the guest yet
    UniqueFd signals_;
    UniqueFd stop_;
    std::thread thread_;
};

}  // namespace snapvm::cli
