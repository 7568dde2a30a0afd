// SPDX-License-Identifier: Apache-2.0
// A byte stream between a user and a guest: the serial port or the virtio console.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>

#include "vmm/machine/console.h"
#include "vmm/machine/input_gate.h"

namespace snapvm {

/// Both directions of one line. A machine without the device has the line, too; it has no output
/// and takes no input. Any thread except a vCPU's may call it.
class Line {
public:
    /// The device's functions.
    struct Ends {
        /// Takes the bytes that the device has room for. Returns how many.
        std::function<std::size_t(std::span<const std::uint8_t>)> receive;
        /// Makes the device continue with output that was refused.
        std::function<void()> output_ready;
    };

    explicit Line(InputGate& gate) : gate_(gate) {}
    /// Connects the device. Must be called before the machine runs.
    void connect(Ends ends) { ends_ = std::move(ends); }

    /// Returns the guest's output.
    [[nodiscard]] Console& output() { return output_; }
    [[nodiscard]] const Console& output() const { return output_; }
    /// Sends bytes to the guest. Waits until the deadline while the device has no room or the
    /// machine is frozen. Returns how many bytes the device took.
    std::size_t send(std::span<const std::uint8_t> bytes, InputGate::Deadline deadline = InputGate::Deadline::max()) {
        return ends_.receive ? gate_.feed(bytes, deadline, ends_.receive) : 0;
    }
    /// Reports that the reader for which output() waits has room again.
    void output_ready() {
        if (ends_.output_ready) {
            ends_.output_ready();
        }
    }

private:
    InputGate& gate_;
    Console output_;
    Ends ends_;
};

}  // namespace snapvm
