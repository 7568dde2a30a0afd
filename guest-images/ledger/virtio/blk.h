// SPDX-License-Identifier: Apache-2.0
// A virtio block device with many requests in flight. Source: virtio 1.2, 5.2.
#pragma once

#include "guest-images/ledger/virtio/queue.h"

namespace snapvm::guest::virtio {

class Blk {
public:
    static constexpr u32 kMostRequests = 128;
    static constexpr u32 kSectorBytes = 512;
    static constexpr u8 kOk = 0;  // any other status is an error

    struct Done {
        u64 cookie;  // the cookie that the request was made with
        u8 status;
    };

    // Starts disk number `nth`, from 0. Returns false if there is none. `ring_features` is as in
    // Device::negotiate().
    bool start(u32 nth, u64 ring_features);
    [[nodiscard]] u64 sectors() const { return sectors_; }
    // Returns the number of requests that the queue always has room for.
    [[nodiscard]] u32 most_requests() const;
    [[nodiscard]] bool read_only() const { return device_.has(kReadOnly); }
    // If false, a write is permanent when it is done.
    [[nodiscard]] bool needs_flush() const { return device_.has(kFlush); }

    // Make requests on memory in one piece of `size` bytes, a multiple of the sector size. Return
    // false if there is no room until something is collected. The device sees the requests after
    // submit(). A flush covers the writes that were done before it was made.
    bool read(u64 sector, u64 address, u32 size, u64 cookie) {
        return request(kIn, sector, {address, size, true}, cookie);
    }
    bool write(u64 sector, u64 address, u32 size, u64 cookie) {
        return request(kOut, sector, {address, size, false}, cookie);
    }
    bool flush(u64 cookie) { return request(kFlushType, 0, {}, cookie); }
    void submit() { queue_.submit(); }
    // Gets the next request that is done, in the order of completion. Returns false if none is
    // done.
    bool collect(Done& done);

    // The queue to wait on, and the counters of queue and device.
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
    // The parts of a request besides its data.
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
