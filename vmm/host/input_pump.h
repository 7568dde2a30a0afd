// SPDX-License-Identifier: Apache-2.0
// Moves stdin to the guest, and takes the signals that end the run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/machine/line.h"

namespace snapvm {

/// Takes the signals that end a run (inheritance.h). If a line is given, sends stdin to it until
/// the end of the input.
class InputPump {
public:
    /// `signalled` is called on the pump's thread at the first signal, and the pump then does no
    /// more. A signal that comes while there is no pump waits for the next one.
    static Result<std::unique_ptr<InputPump>> start(std::function<void()> signalled, Line* from_stdin);
    InputPump(const InputPump&) = delete;
    InputPump& operator=(const InputPump&) = delete;
    /// Waits for a send to the line that is under way: 50 ms at most, and not at all after
    /// Machine::stop_input.
    ~InputPump();

    /// Blocks these signals for this thread and the threads that it starts later, and ignores
    /// SIGPIPE. Must be called before any thread is started.
    static void block_signals();

private:
    InputPump(std::function<void()> signalled, Line* from_stdin);
    void run();
    bool read_stdin();
    void send_pending();

    std::function<void()> signalled_;
    Line* from_stdin_;  ///< null: stdin is not read
    std::vector<std::uint8_t> pending_;  ///< read from stdin, and not taken by the guest yet
    UniqueFd signals_;
    UniqueFd stop_;
    std::thread thread_;
};

}  // namespace snapvm
