// SPDX-License-Identifier: Apache-2.0
// A virtio device over MMIO, seen from its driver. Sources: virtio 1.2, 2.1 to 2.3, 3.1, 4.2; where devices sit: vmm/platform/PLATFORM.md.
// Written from the specification alone, with nothing of devices/: a second opinion on that. What a device must not do ends the guest with
// `LEDGER BAD virtio …` and exit code 1.
//
// A driver, on one vCPU, at CPL 3:
//     device.find(Type::entropy);              // false: there is none
//     device.negotiate(kEventIndex | kIndirect);
//     queue.set_up(device, 0, 64);             // queue.h
//     device.start();
//     queue.add(buffers, 2, cookie);           // as many as there is room for
//     queue.submit();                          // one notification for all of them, if the device wants one
//     queue.wait(1);                           // sleeps until so many are done
//     while (queue.collect(used)) …
// Objects have to be static (constinit): no constructors run in this guest, and they are large for a stack.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest::virtio {

// Chapter 5's numbers.
enum class Type : u32 { net = 1, block = 2, console = 3, entropy = 4, balloon = 5, vsock = 19 };

// Feature bits of chapter 6 that a driver may ask for. VERSION_1 is always agreed on.
inline constexpr u64 kIndirect = 1ULL << 28, kEventIndex = 1ULL << 29;

[[noreturn]] void broken(Type type, const char* why);

class Device {
public:
    // The nth device of a type, from 0, reset.
    bool find(Type type, u32 nth = 0);
    // Agrees on VERSION_1 and on what of `wanted` is offered; queues are set up after it.
    void negotiate(u64 wanted);
    // Its interrupts come to this vCPU from here on, and its queues are served.
    void start();
    // Starts over: negotiate, queues and start are due again.
    void reset();

    [[nodiscard]] Type type() const { return type_; }
    [[nodiscard]] bool has(u64 feature) const { return (features_ & feature) != 0; }

    // Fields of the configuration space, by offset; a 64-bit one in two parts that belong together.
    [[nodiscard]] u8 config8(u32 offset) const { return read_mmio8(base_ + kConfig + offset); }
    [[nodiscard]] u16 config16(u32 offset) const { return read_mmio16(base_ + kConfig + offset); }
    [[nodiscard]] u32 config32(u32 offset) const { return read_mmio(base_ + kConfig + offset); }
    [[nodiscard]] u64 config64(u32 offset) const;
    void set_config32(u32 offset, u32 value) { write_mmio(base_ + kConfig + offset, value); }

    // Interrupts so far. Each ends a halt(), as every interrupt does.
    [[nodiscard]] u64 interrupts() const;
    // To be called after an interrupt, and at any time: what has come since the last call is acknowledged (4.2.3.4). Queue does it.
    void acknowledge();
    // Whether the configuration has changed since this was last asked.
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
