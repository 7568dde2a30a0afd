// SPDX-License-Identifier: Apache-2.0
// What every device is: something on a bus that can be saved. No device knows of KVM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/disk/disk.h"
#include "devices/tap/tap.h"
#include "vmm/base/error.h"
#include "vmm/base/state_record.h"
#include "vmm/bus/bus.h"
#include "vmm/bus/interrupt.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// Where a device's output goes (the serial port's bytes). Callable from vCPU threads; never blocks.
class OutputSink {
public:
    virtual ~OutputSink() = default;
    /// Takes the byte, or returns false when it is full; then the device is told through its `output_ready` once there is room.
    [[nodiscard]] virtual bool put(std::uint8_t byte) = 0;
};

/// How a guest ends a run through a device.
enum class GuestRequest : std::uint8_t { reboot, power_off, exit_code, panic };

/// What a guest tells the VMM through devices. Called on vCPU threads; must not wait for a pause.
class GuestEvents {
public:
    virtual ~GuestEvents() = default;
    virtual void request(GuestRequest what, std::uint8_t exit_code) = 0;
    virtual void ready(std::uint32_t value) = 0;
    virtual void mark(std::uint32_t value) = 0;
};

class EventLoop;

/// Everything a device may need from outside. References outlive every device.
struct DeviceHost {
    InterruptSink* interrupts = nullptr;  ///< null only while the interrupt controller itself is built
    MsiSink& msi;
    OutputSink& serial_output;
    OutputSink& console_output;  ///< the virtio console's
    GuestEvents& events;
    GuestMemory& memory;
    EventLoop* loop = nullptr;  ///< null where no device needs one (DeviceConfig::virtio_devices)
    DiskOpener open_disk = {};  ///< null: as files and block devices
    OpenTap open_tap = snapvm::open_tap;
};

/// A device. Its state is saved by construction: `save` is pure virtual, and a device is built from a saved record as readily as
/// fresh (devices/registry.h), so that none is silently lost from snapshots.
///
/// Threads: bus accesses come from vCPU threads, `save` and `resumed` from the controlling thread while all vCPUs are parked.
class Device : public BusDevice {
public:
    /// The device's state as a record of its kind and its encoding's version.
    [[nodiscard]] virtual StateRecord save() const = 0;
    /// Called before the vCPUs of a restored machine run for the first time.
    virtual Status restored() { return {}; }
};

}  // namespace snapvm
