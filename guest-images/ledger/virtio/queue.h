// SPDX-License-Identifier: Apache-2.0
// The driver's side of a split virtqueue, with event indexes and indirect tables if they were
// negotiated. Source: virtio 1.2, 2.7. Only one vCPU may use a queue. device.h has an example.
#pragma once

#include "guest-images/ledger/virtio/device.h"

namespace snapvm::guest::virtio {

// Guest memory in one piece, physically too, because memory is mapped identically. In a chain the
// buffers that the device writes come last.
struct Buffer {
    u64 address;
    u32 size;
    bool device_writes;
};

// A chain that the device is done with.
struct Used {
    u64 cookie;  // the cookie that the chain was added with
    u32 written;  // bytes, counted from the first buffer that the device writes
};

class Queue {
public:
    static constexpr u32 kMostEntries = 256;
    static constexpr u32 kMostIndirect = 16;  // buffers in an indirect table; longer chains are direct

    // Sets up queue `index` of a device that has negotiated and not started. Memory comes from
    // take_memory(). `entries` is a power of two and is cut to what the device allows.
    void set_up(Device& device, u32 index, u32 entries);

    // Puts a chain into the ring; the device sees it after submit(). Returns false if there is no
    // room until something is collected.
    bool add(const Buffer* buffers, u32 count, u64 cookie);
    // Shows the device what was added, and notifies it if it wants notifications.
    void submit();
    // Gets the next chain that is done, and acknowledges interrupts. Returns false if none is done.
    bool collect(Used& used);

    // Requests an interrupt when `count` chains more than were collected are done. Returns false if
    // they are done already; then no interrupt may come. Interrupts may come before that, without
    // event indexes in particular. No interrupt comes unless one was requested.
    bool ask_for_interrupt(u32 count);
    void ask_for_none();
    // Sleeps until `count` chains can be collected, or all outstanding ones if those are fewer.
    void wait(u32 count);

    // Returns the number of chains that were added and not collected.
    [[nodiscard]] u32 outstanding() const { return outstanding_; }
    [[nodiscard]] u32 entries() const { return entries_; }
    // Returns the number of notifications sent to the device.
    [[nodiscard]] u64 notifications() const { return notifications_; }

private:
    struct Descriptor {
        u64 address;
        u32 size;
        u16 flags;
        u16 next;
    };
    struct Chain {
        u64 cookie;
        u64 writable;  // bytes that the device may write
        u16 length;  // descriptors that it takes in the ring; 0: the device does not have the chain
    };
    static Descriptor describe(const Buffer& buffer, bool last, u32 next);
    [[nodiscard]] u16 ready() const;
    void give_back_descriptors(u16 head);

    Device* device_ = nullptr;
    u32 index_ = 0;
    u32 entries_ = 0;
    Descriptor* descriptors_ = nullptr;
    u16* available_ = nullptr;  // flags, index, ring, used_event
    u16* used_ = nullptr;  // flags, index, ring of pairs of u32, avail_event
    Descriptor* tables_ = nullptr;  // kMostIndirect for each entry
    bool event_index_ = false;
    u32 free_ = 0;  // free descriptors, in a list through next_
    u16 first_free_ = 0;
    u32 outstanding_ = 0;
    u16 next_available_ = 0;
    u16 submitted_ = 0;  // next_available_ when the device was last shown it
    u16 next_used_ = 0;
    u64 notifications_ = 0;
    u16 next_[kMostEntries] = {};  // a private copy: the device may overwrite the descriptors
    Chain chains_[kMostEntries] = {};  // by head
};

}  // namespace snapvm::guest::virtio
