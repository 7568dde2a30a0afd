// SPDX-License-Identifier: Apache-2.0
// Moves a line's output to its one reader on the host, for which the guest waits.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <thread>

#include "vmm/base/error.h"
#include "vmm/machine/line.h"

namespace snapvm {

/// Passes all of a line's output to a function until the line is closed. If the function is slow,
/// the guest waits (flow control).
class OutputPump {
public:
    /// Takes the next bytes. Returns false if it takes no more; the guest then runs on without it.
    using Sink = std::function<bool(std::string_view)>;

    /// Starts a thread that calls `sink`, beginning with the oldest output that the line still has.
    static Result<std::unique_ptr<OutputPump>> start(Line& line, Sink sink);
    OutputPump(const OutputPump&) = delete;
    OutputPump& operator=(const OutputPump&) = delete;
    /// Returns when all output has been passed on. The line must be closed.
    ~OutputPump();

private:
    OutputPump(Line& line, Sink sink);
    void run();

    Console& console_;
    Sink sink_;
    std::thread thread_;
};

}  // namespace snapvm
