// SPDX-License-Identifier: Apache-2.0
// A disk for the guest. Source: virtio 1.2, 5.2 "Block Device".
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "devices/disk/disk.h"
#include "devices/virtio/blk/request.h"
#include "devices/virtio/device.h"

namespace snapvm::virtio {

/// What the guest has read of its disk's shape, and goes on to believe; untrusted until Blk::restore has checked it.
struct BlkStateV1 {
    std::uint64_t sectors = 0;
    std::uint32_t block_size = 0;

    void encode(Encoder& out) const;
    static BlkStateV1 decode(Decoder& in);
};

/// Requests are taken, begun and ended on the event loop; each batch with one call into the kernel and one interrupt at most.
///
/// Nothing is in flight in a saved state: a hold of the loop waits for what was begun (EventLoop::begin_work), and what the driver has put
/// into the queue since is there to be found again.
class Blk final : public Device {
public:
    Blk(std::string id, std::unique_ptr<Disk> disk);
    /// Refuses a disk that is not of the size it had.
    static Result<std::unique_ptr<Blk>> restore(std::string id, std::unique_ptr<Disk> disk, const BlkStateV1& state);
    ~Blk() override;

    [[nodiscard]] DeviceType type() const override { return DeviceType::block; }
    [[nodiscard]] std::uint64_t features() const override;
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Port& port) override;
    Status notified(std::size_t queue) override;
    void drain() override;
    void encode(Encoder& out) const override { state_.encode(out); }

private:
    /// A request on its way, from its chain's pop to its push.
    struct Slot : DiskRequest {
        Chain chain;
        BlkRequest request;
        std::size_t ranges_left = 0;  ///< of `request.ranges`, after the one that is at the disk
    };

    Status take(Slot& slot);
    void begin(Slot& slot);
    void set_range(Slot& slot);
    void send(Slot& slot);
    void ended(Slot& slot, int error);
    void answer(Slot& slot, std::uint8_t status);
    void completions();

    const std::string id_;
    BlkStateV1 state_;
    Port* port_ = nullptr;
    std::vector<Slot> slots_;
    std::vector<Slot*> free_;
    bool full_ = false;  ///< chains are left in the queue for want of a slot
    std::atomic<unsigned> in_flight_ = 0;  ///< at the disk. Changed under the lock; `drain` reads it without
    std::unique_ptr<Disk> disk_;  ///< goes before slots_, which it writes to
    std::unique_ptr<Port::Watch> watch_;
};

}  // namespace snapvm::virtio
