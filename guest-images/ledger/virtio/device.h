// SPDX-License-Identifier: Apache-2.0
// A virtio device over MMIO, as its driver sees it. Sources: virtio 1.2, 2.1 to 2.3, 3.1, 4.2;
// vmm/platform/PLATFORM.md for the devices' addresses. The code is written from the specification
// alone and shares nothing with devices/, so that it tests them independently. If a device does
// what it must not, the guest ends with `LEDGER BAD virtio …` and exit code 1.
//
// A driver, on one vCPU, at CPL 3:
//     device.find(Type::entropy);              // false: there is none
//     device.negotiate(kEventIndex | kIndirect);
//     queue.set_up(device, 0, 64);             // queue.h
//     device.start();
//     queue.add(buffers, 2, cookie);           // while there is room
//     queue.submit();                          // one notification for all, if the device wants one
//     queue.wait(1);                           // sleeps until one is done
//     while (queue.collect(used)) …
// Objects have to be static (constinit): no constructors run in this guest, and the objects are
// large for a stack.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest::virtio {

// Device numbers of virtio 1.2, chapter 5.
enum class Type : u32 { net = 1, block = 2, console = 3, entropy = 4, balloon = 5, vsock = 19 };

// Feature bits of chapter 6 that a driver may ask for. VERSION_1 is always negotiated.
inline constexpr u64 kIndirect = 1ULL << 28, kEventIndex = 1ULL << 29;

[[noreturn]] void broken(Type type, const char* why);

class Device {
public:
    // Finds device number `nth` of a type, from 0, and resets it. Returns false if there is none.
    bool find(Type type, u32 nth = 0);
    // Accepts VERSION_1 and those bits of `wanted` that the device offers. Queues are set up after
    // this.
    void negotiate(u64 wanted);
    // Routes the device's interrupts to this vCPU and sets DRIVER_OK: from here on the device
    // serves its queues.
    void start();
    // Resets the device. negotiate(), the queues' set_up() and start() have to follow again.
    void reset();

    [[nodiscard]] Type type() const { return type_; }
    [[nodiscard]] bool has(u64 feature) const { return (features_ & feature) != 0; }

    // Fields of the configuration space, by offset. The halves of a 64-bit field are of one
    // generation.
    [[nodiscard]] u8 config8(u32 offset) const { return read_mmio8(base_ + kConfig + offset); }
    [[nodiscard]] u16 config16(u32 offset) const { return read_mmio16(base_ + kConfig + offset); }
    [[nodiscard]] u32 config32(u32 offset) const { return read_mmio(base_ + kConfig + offset); }
    [[nodiscard]] u64 config64(u32 offset) const;
    void set_config32(u32 offset, u32 value) { write_mmio(base_ + kConfig + offset, value); }

    // Returns the number of interrupts so far. Each of them ends a halt().
    [[nodiscard]] u64 interrupts() const;
    // Acknowledges the causes of interrupts that came since the last call (4.2.3.4). It is called
    // after an interrupt and may be called at any time. Queue calls it.
    void acknowledge();
    // Returns whether the configuration has changed since the last call.
    bool take_config_change();

private:
    friend class Queue;
    static constexpr u64 kConfig = 0x100;
    [[nodiscard]] u32 get(u32 offset) const { return read_mmio(base_ + offset); }
    void set(u32 offset, u32 value) const { write_mmio(base_ + offset, value); }
    void add_status(u32 bit);

    u64 base_ = 0;
    Type type_ = {};
    u32 place_ = 0;
    u64 features_ = 0;
    u64 acknowledged_ = 0;
    bool config_changed_ = false;
};

}  // namespace snapvm::guest::virtio
