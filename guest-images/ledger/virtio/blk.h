// SPDX-License-Identifier: Apache-2.0
// A virtio block device, many requests at a time. Source: virtio 1.2, 5.2.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Blk {
public:
    static constexpr u32 kMostRequests = 128;
    static constexpr u32 kSectorBytes = 512;
    static constexpr u8 kOk = 0;  // any other status is an error

    struct Done {
        u64 cookie;  // as the request was made with
        u8 status;
    };

    // The nth disk. False: there are not so many. `ring_features` as of Device::negotiate.
    bool start(u32 nth, u64 ring_features);
    [[nodiscard]] u64 sectors() const { return sectors_; }
    // As many as there is always room for.
    [[nodiscard]] u32 most_requests() const;
    [[nodiscard]] bool read_only() const { return device_.has(kReadOnly); }
    // Without it, what is written is on the disk for good when it is done.
    [[nodiscard]] bool needs_flush() const { return device_.has(kFlush); }

    // Requests on memory in one piece, `size` bytes in whole sectors; false: there is no room before something is collected. The device
    // sees them after `submit`. A flush covers writes that were done before it was made.
    bool read(u64 sector, u64 address, u32 size, u64 cookie) { return request(kIn, sector, {address, size, true}, cookie); }
    bool write(u64 sector, u64 address, u32 size, u64 cookie) { return request(kOut, sector, {address, size, false}, cookie); }
    bool flush(u64 cookie) { return request(kFlushType, 0, {}, cookie); }
    void submit() { queue_.submit(); }
    // The next that is done, in the order in which they got done; false: none at the moment.
    bool collect(Done& done);

    // For waiting, and for who counts.
    [[nodiscard]] Queue& queue() { return queue_; }
    [[nodiscard]] const Device& device() const { return device_; }

private:
    static constexpr u64 kReadOnly = 1ULL << 5, kFlush = 1ULL << 9;
    enum RequestType : u32 { kIn = 0, kOut = 1, kFlushType = 4 };
    struct Header {
        u32 type;
        u32 reserved;
        u64 sector;
    };
    // What the device reads and writes of a request besides its data.
    struct Slot {
        Header header;
        u8 status;
    };
    bool request(RequestType type, u64 sector, const Buffer& data, u64 cookie);

    Device device_;
    Queue queue_;
    u64 sectors_ = 0;
    Slot* slots_ = nullptr;
    u32 free_count_ = 0;
    u8 free_[kMostRequests] = {};
    u64 cookies_[kMostRequests] = {};
};

}  // namespace snapvm::guest::virtio
