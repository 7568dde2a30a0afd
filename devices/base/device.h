// SPDX-License-Identifier: Apache-2.0
// The base of all devices: something on a bus that can be saved. No device includes KVM headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/base/parsed_state.h"
#include "vmm/base/counters.h"
#include "vmm/base/error.h"
#include "vmm/bus/bus.h"
#include "vmm/bus/interrupt.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/state/state_record.h"

namespace snapvm {

/// Takes a device's output, such as the bytes of the serial port. vCPU threads may call it; it
/// never blocks.
class OutputSink {
public:
    virtual ~OutputSink() = default;
    /// Takes the byte, or returns false if it is full. In that case the device's `output_ready` is
    /// called once there is room.
    [[nodiscard]] virtual bool put(std::uint8_t byte) = 0;
};

/// The ways in which a guest ends a run through a device.
enum class GuestRequest : std::uint8_t { reboot, power_off, exit_code, panic };

/// Receives what a guest tells the VMM through devices. Called on vCPU threads. Must not wait for a
/// pause of the machine.
class GuestEvents {
public:
    virtual ~GuestEvents() = default;
    virtual void request(GuestRequest what, std::uint8_t exit_code) = 0;
    virtual void ready(std::uint32_t value) = 0;
    virtual void mark(std::uint32_t value) = 0;
};

/// Takes a device's wish that the machine is paused, since the host has to do something before the
/// guest can go on. Any thread; waits for nothing and takes no device's lock.
class PauseRequests {
public:
    virtual ~PauseRequests() = default;
    /// `why` says what is wrong, and advises what to do. Machine::resume tells the device to go on.
    virtual void request_pause(const Error& why) = 0;
};

class EventLoop;

/// The parts of the machine that devices may use. What it refers to outlives every device.
struct DeviceHost {
    InterruptSink* interrupts = nullptr;  ///< null only while the interrupt controller itself is built
    MsiSink& msi;
    OutputSink& serial_output;
    OutputSink& console_output;  ///< output of the virtio console
    GuestEvents& events;
    PauseRequests& pauses;
    GuestMemory& memory;
    EventLoop* loop = nullptr;  ///< null if no device needs one (DeviceConfig::virtio_devices)
};

/// A device. It is constructed in the state of a machine that was just switched on. A restored
/// machine's devices then parse and adopt their records. A device that ran may adopt a state in
/// place, and then goes on as a restored one would.
///
/// Threads: vCPU threads access the bus. The controlling thread calls the functions below, all but
/// `parse` while all vCPUs are parked and the event loop is quiesced.
class Device : public BusDevice {
public:
    /// Called once in a new machine, before its vCPUs first run. No state is adopted then.
    virtual Status power_on() { return {}; }
    /// Returns the device's state as a record, with its kind and the version of its encoding.
    [[nodiscard]] virtual StateRecord save() const = 0;
    /// Checks a record of this kind and version, whose bytes are untrusted, against the device's
    /// configuration and guest memory. Returns the state in it, for this device alone. Changes
    /// nothing. Fails with invalid if the device cannot be in that state. Any thread.
    virtual Result<std::unique_ptr<const ParsedState>> parse(const StateRecord& record) const = 0;
    /// Puts the device into a state that it has parsed, and leaves nothing of the one before: ends
    /// its watches and timers, drops its input and output. Sends nothing, neither interrupts nor
    /// output. Keeps the host's side: files, sockets, taps, counters. Guest memory must be that of
    /// the adopted state when the device next works.
    ///
    /// Makes no call that can fail, and ends the program if memory runs out. What needs such a call
    /// (a watch, KVM's routes) is done by restored(), which must follow before the vCPUs run.
    virtual void adopt(const ParsedState& state) noexcept = 0;
    /// Called once after a state was adopted, before the vCPUs run on from it.
    virtual Status restored() { return {}; }
    /// Returns what the device has counted since it was constructed. Any thread.
    [[nodiscard]] virtual const Counters& counters() const { return counters_; }

protected:
    Counters counters_;
};

}  // namespace snapvm
