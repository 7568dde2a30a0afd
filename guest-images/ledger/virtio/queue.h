// SPDX-License-Identifier: Apache-2.0
// The driver's side of a split virtqueue: chains of buffers out, chains done back, with event indexes and indirect tables where they were
// agreed on. Source: virtio 1.2, 2.7. One vCPU works on a queue; device.h has an example.
#pragma once

#include "guest-images/ledger/virtio/device.h"

namespace snapvm::guest::virtio {

// A piece of guest memory, in one piece physically as all of it is here. Those that the device writes come last in a chain.
struct Buffer {
    u64 address;
    u32 size;
    bool device_writes;
};

// A chain that the device is done with.
struct Used {
    u64 cookie;  // as it was added with
    u32 written;  // bytes, from the first buffer on that the device writes
};

class Queue {
public:
    static constexpr u32 kMostEntries = 256;
    static constexpr u32 kMostIndirect = 16;  // buffers in an indirect table; longer chains are direct

    // Queue `index` of a device that has negotiated and not started; its memory comes from what the ledger has left. `entries` is a power of
    // two, and cut to what the device allows.
    void set_up(Device& device, u32 index, u32 entries);

    // Puts a chain into the ring, unseen by the device until `submit`. False: there is no room before something is collected.
    bool add(const Buffer* buffers, u32 count, u64 cookie);
    // Shows the device what was added, and notifies it if it wants that.
    void submit();
    // The next chain that is done; false: none at the moment. Acknowledges interrupts.
    bool collect(Used& used);

    // The device interrupts when `count` more than were collected are done. False: so many are already, and none may come. In between
    // interrupts come as they like; without event indexes also earlier. For as long as nobody asks, there is none.
    bool ask_for_interrupt(u32 count);
    void ask_for_none();
    // Sleeps until `count` can be collected, at most as many as are outstanding.
    void wait(u32 count);

    // Chains that were added and not collected.
    [[nodiscard]] u32 outstanding() const { return outstanding_; }
    [[nodiscard]] u32 entries() const { return entries_; }
    // For whoever counts: notifications of the device.
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
        u16 length;  // descriptors it takes in the ring; 0: not out
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
    u32 free_ = 0;  // descriptors, a list through next_
    u16 first_free_ = 0;
    u32 outstanding_ = 0;
    u16 next_available_ = 0;
    u16 submitted_ = 0;  // next_available_ as the device has last been shown it
    u16 next_used_ = 0;
    u64 notifications_ = 0;
    u16 next_[kMostEntries] = {};  // the device's copy is its to spoil
    Chain chains_[kMostEntries] = {};  // by head
};

}  // namespace snapvm::guest::virtio
