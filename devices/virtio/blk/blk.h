// SPDX-License-Identifier: Apache-2.0
// A disk for the guest. Source: virtio 1.2, 5.2 "Block Device".
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/disk/disk.h"
#include "devices/virtio/blk/request.h"
#include "devices/virtio/stateful_device.h"
#include "vmm/state/state_record.h"

namespace snapvm::virtio {

/// What the guest has read of its disk's shape and relies on, or has been told of it. Untrusted
/// until Blk::check has checked it.
struct BlkStateV1 {
    std::uint64_t sectors = 0;
    std::uint32_t block_size = 0;
    /// Heads of the chains whose requests have failed and are kept (WriteErrors::stop), the oldest
    /// first. Their requests begin again from their chains, in a restored machine, too.
    std::vector<std::uint16_t> kept;

    void encode(Encoder& out) const;
    static BlkStateV1 decode(Decoder& in);
};

/// Returns the size of the disk whose record this is, in bytes. The record is untrusted.
Result<std::uint64_t> disk_bytes_in(const StateRecord& record);

/// A virtio disk. Requests are taken, begun and completed on the event loop, each batch with at
/// most one system call and one interrupt.
///
/// A saved state has no request in flight: EventLoop::quiesce waits for what was begun
/// (EventLoop::begin_work). What the driver has put into the queue since then is in the queue
/// still. A kept request is not in flight: its chain is in the state (BlkStateV1::kept).
class Blk final : public StatefulDevice<BlkStateV1> {
public:
    /// Called when a request that has failed is kept. From then on the disk begins nothing, until
    /// go_on(). `why` names the disk.
    using Stopped = std::function<void(const Error& why)>;
    /// Without `stopped` the driver gets the errors (WriteErrors).
    Blk(std::string id, std::unique_ptr<Disk> disk, Stopped stopped = {});
    ~Blk() override;

    [[nodiscard]] DeviceType type() const override { return DeviceType::block; }
    /// Returns the disk's size. May be called without the transport's lock.
    [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
    /// Makes the disk larger (Disk::resize) and tells the driver. Fails as that does.
    Status resize(std::optional<std::uint64_t> bytes);
    [[nodiscard]] std::uint64_t features() const override;
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Transport& transport) override;
    Status notified(std::size_t queue) override;
    void drain() override;
    void reset() override { forget_kept(); }
    void queue_stopped(std::size_t /*queue*/) override { forget_kept(); }
    /// Begins the kept requests again, then what the driver has put into the queue since. Any
    /// thread, with the lock held; the event loop does it.
    void go_on();
    /// Begins to make durable what was written, if the disk's file has tables of its own
    /// (Disk::has_tables). The event loop is quiesced, and counts the work. If it fails, the next
    /// call tries again, and the guest hears of it with its own flush.
    void settle();
    // For a layer of the disk (disk/image/new_layer.h).

    /// Returns the file of the disk's image; null if it has none.
    [[nodiscard]] const DiskFile* file() const { return disk_->file(); }
    /// Opens the overlay in which the disk is to continue (Disk::prepare_overlay).
    Status prepare_overlay(disk::Overlay overlay);
    void drop_overlay() { disk_->drop_overlay(); }
    /// Marks and freezes the image, and goes on in the overlay. The event loop is quiesced. `path`
    /// is where the image is now. Returns the object that the disk was, to be destroyed without the
    /// lock, or null. If it fails, the disk is as before.
    Result<std::unique_ptr<Disk>> continue_in_overlay(const disk::LayerMark& mark, const std::string& path);

    /// Fails with system if the last settle() has failed.
    [[nodiscard]] Status settled() const;

private:
    /// Fails if the disk does not have the size that it had.
    [[nodiscard]] Status check(const BlkStateV1& state) const override;
    void adopted() noexcept override { full_ = stopped_ = false; }

    /// A request between the pop and the push of its chain.
    struct Slot : DiskRequest {
        Chain chain;
        BlkRequest request;
        std::size_t ranges_left = 0;  ///< ranges of `request.ranges` after the one in flight
    };

    Result<bool> next(Queue& queue, Chain& chain);
    Status take(Slot& slot);
    void begin(Slot& slot);
    void set_range(Slot& slot);
    void send(Slot& slot);
    void ended(Slot& slot, int error);
    void keep(Slot& slot, int error);
    void forget_kept();
    void answer(Slot& slot, std::uint8_t status);
    void completions();

    const std::string id_;
    const Stopped on_stop_;
    Transport* transport_ = nullptr;
    std::vector<Slot> slots_;
    std::vector<Slot*> free_;
    bool full_ = false;  ///< chains stay in the queue because no slot is free
    bool stopped_ = false;  ///< a request has failed and is kept; nothing begins until go_on()
    std::atomic<unsigned> in_flight_ = 0;  ///< requests at the disk; changed under the lock, drain() reads it without
    bool unsettled_ = false;  ///< the guest has written since settle()
    Slot* settling_ = nullptr;  ///< the flush of settle(), which is no request of the guest's
    int settle_error_ = 0;  ///< errno of the last one
    std::atomic<std::uint64_t> bytes_;  ///< the disk's size; changed under the lock
    std::unique_ptr<Disk> disk_;  ///< destroyed before slots_, which it writes to
    std::unique_ptr<Transport::Watch> watch_;
    int next_event_ = -1;  ///< of the disk that goes on with the overlay
};

}  // namespace snapvm::virtio
