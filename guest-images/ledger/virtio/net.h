// SPDX-License-Identifier: Apache-2.0
// A virtio network interface. Source: virtio 1.2, 5.1.
#pragma once

#include "guest-images/ledger/virtio/duplex.h"

namespace snapvm::guest::virtio {

class Net {
public:
    // Features that a driver may ask for (5.1.3). With kAnnounces it announces its address when it
    // is asked to.
    static constexpr u64 kChecksum = 1ULL << 0, kHostTso4 = 1ULL << 11;
    static constexpr u64 kMac = 1ULL << 5, kStatus = 1ULL << 16, kControlQueue = 1ULL << 17, kAnnounce = 1ULL << 21;
    static constexpr u64 kAnnounces = kMac | kStatus | kControlQueue | kAnnounce;

    static constexpr u32 kHeaderBytes = 12;  // before each frame (5.1.6); all zeros: no offloads
    static constexpr u32 kMacBytes = 6;
    static constexpr u32 kBuffers = 32, kBufferBytes = 2048;

    // Returns false if there is no such device. `features` includes those of Device::negotiate().
    // Without `receives` no frame is received.
    bool start(u64 features, bool receives);
    [[nodiscard]] bool has(u64 feature) const { return device_.has(feature); }
    [[nodiscard]] const u8 (&mac() const)[kMacBytes] { return mac_; }
    // Sends and receives frames with their headers.
    [[nodiscard]] Duplex& frames() { return frames_; }
    // Announces the interface if the device asks for it.
    void serve();

private:
    void make_announcement();
    void acknowledge_announcement();

    Device device_;
    Duplex frames_;
    Queue control_;
    u8 mac_[kMacBytes] = {};
    u8 announcement_[kHeaderBytes + 60] = {};
    u8 command_[2] = {};
    u8 answer_ = 0;
};

}  // namespace snapvm::guest::virtio
