// SPDX-License-Identifier: Apache-2.0
// The MMIO transport, register by register. Source: virtio 1.2, 4.2 "Virtio Over MMIO", and 3.1
// "Device Initialization".
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/base/attached_device.h"
#include "devices/base/device.h"
#include "devices/virtio/device.h"

namespace snapvm::virtio {

/// The state of the registers. Untrusted until Mmio::parse has checked it.
struct MmioStateV1 {
    static constexpr std::uint16_t kVersion = 1;

    std::uint32_t device_features_select = 0;
    std::uint32_t driver_features_select = 0;
    std::uint64_t driver_features = 0;
    std::uint32_t queue_select = 0;
    std::uint32_t status = 0;
    std::uint32_t interrupt_status = 0;
    std::uint32_t config_generation = 0;
    std::vector<QueueStateV1> queues;

    void encode(Encoder& out) const;
    static MmioStateV1 decode(Decoder& in);
};

/// The address and GSI of a device, and the kind and instance of its record.
struct Place {
    RecordKind kind{};
    std::uint32_t instance = 0;
    Gpa base;
    std::uint32_t gsi = 0;
};

inline constexpr std::uint64_t kMmioSize = 0x200;

/// A virtio device on the MMIO bus. vCPU threads access the registers. The event loop serves the
/// queues; a notification wakes it through an eventfd, to which KVM writes without an exit to the
/// VMM (ioeventfd), or else the bus.
///
/// The interrupt is edge-triggered: the EOI exit of a level-triggered one would cost the guest more
/// than the interrupt itself.
class Mmio final : public snapvm::Device, private Transport {
public:
    /// Connects a device to the bus.
    static Result<std::unique_ptr<Mmio>> build(const DeviceHost& host, const Place& place,
                                               std::unique_ptr<virtio::Device> device);
    ~Mmio() override;

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;
    /// A record holds the registers, then the device's own part.
    Result<std::unique_ptr<const ParsedState>> parse(const StateRecord& record) const override;
    void adopt(const ParsedState& state) noexcept override;
    Status restored() override;
    [[nodiscard]] const Counters& counters() const override { return device_->counters(); }

    /// Returns the address of the notification register, and the eventfd that a write there
    /// signals.
    [[nodiscard]] IoEventFd ioeventfd() const;
    [[nodiscard]] virtio::Device& device() { return *device_; }
    /// Whether a driver has set DRIVER_OK since the device was built.
    [[nodiscard]] bool had_driver() const;
    /// Runs `what` with the device's lock held, for calls that do not come from the guest.
    template <class What>
    auto locked(What what) {
        const std::lock_guard lock(mutex_);
        return what();
    }

private:
    Mmio(const DeviceHost& host, const Place& place, std::unique_ptr<virtio::Device> device, UniqueFd notify_fd);
    struct Contents;
    [[nodiscard]] Status check(const MmioStateV1& saved) const;
    [[nodiscard]] std::uint64_t offered() const;
    [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) const;
    void write_register(std::uint64_t offset, std::uint32_t value);
    void write_queue_register(std::uint64_t offset, std::uint32_t value);
    void write_status(std::uint32_t value);
    void tell_queues_what_was_agreed();
    void start_over();
    void stop_queue();
    template <class Then>
    void stop_and(Then then);
    void serve_queues();
    void need_reset();
    void raise(std::uint32_t cause);

    // Transport
    Queue& queue(std::size_t index) override { return queues_[index]; }
    GuestMemory& memory() override { return host_.memory; }
    EventLoop& loop() override { return *host_.loop; }
    [[nodiscard]] std::uint64_t features() const override { return state_.driver_features; }
    [[nodiscard]] bool running() const override;
    void signal_used(std::size_t queue) override;
    void signal_config() override;
    void ring() override;
    Result<std::unique_ptr<Transport::Watch>> watch(EventLoop::Kind kind, int fd, std::uint32_t events,
                                                    EventLoop::Callback callback) override;

    const DeviceHost host_;
    const Place place_;
    UniqueFd notify_fd_;  ///< eventfd

    std::mutex stopper_;  ///< held by the one vCPU that stops the device or a queue; taken before mutex_
    mutable std::mutex mutex_;  // guards all below; taken before the interrupt controller's and the loop's
    MmioStateV1 state_;  ///< without the queues, which are in queues_
    std::vector<Queue> queues_;
    bool had_driver_ = false;
    bool stopping_ = false;  ///< a vCPU resets the device or stops a queue
    std::unique_ptr<virtio::Device> device_;
    std::unique_ptr<EventLoop::Watch> watch_;  ///< of notify_fd_; destroyed first
};

}  // namespace snapvm::virtio
