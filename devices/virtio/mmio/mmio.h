// SPDX-License-Identifier: Apache-2.0
// The MMIO transport, register by register. Source: virtio 1.2, 4.2 "Virtio Over MMIO", and 3.1 "Device Initialization".
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/device.h"
#include "devices/registry.h"
#include "devices/virtio/device.h"

namespace snapvm::virtio {

/// What the driver has done to the registers; untrusted until Mmio::restore has checked it.
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

/// Where a device sits, and as what it is saved.
struct Place {
    RecordKind kind{};
    std::uint32_t instance = 0;
    Gpa base;
    std::uint32_t gsi = 0;
};

inline constexpr std::uint64_t kMmioSize = 0x200;

/// A virtio device on the MMIO bus. Registers are answered on vCPU threads; queues are served on the event loop, which a notification wakes
/// by an eventfd: KVM writes it (ioeventfd) without a return to us, or the bus does.
///
/// The interrupt is edge-triggered: an EOI exit for each would cost the guest more than the interrupt does.
class Mmio final : public snapvm::Device, private Port {
public:
    /// Builds a fresh transport (`saved` null), or takes over the registers out of a record's first bytes; the device's own follow them, and
    /// `device` has been built from them already.
    static Result<std::unique_ptr<Mmio>> build(const DeviceHost& host, const Place& place, std::unique_ptr<virtio::Device> device,
                                               const MmioStateV1* saved);
    ~Mmio() override;

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;
    Status restored() override;

    /// The notification register's address, and the eventfd that a write there is to signal.
    [[nodiscard]] Doorbell doorbell() const;
    [[nodiscard]] virtio::Device& device() { return *device_; }
    /// Whether a driver has come to work with the device (DRIVER_OK) since it was built.
    [[nodiscard]] bool had_driver() const;
    /// Runs `what` with the device's lock held: for what comes from outside the guest.
    template <class What>
    auto locked(What what) {
        const std::lock_guard lock(mutex_);
        return what();
    }

private:
    Mmio(const DeviceHost& host, const Place& place, std::unique_ptr<virtio::Device> device, UniqueFd bell);
    Status take_over(const MmioStateV1& saved);
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

    // Port
    Queue& queue(std::size_t index) override { return queues_[index]; }
    GuestMemory& memory() override { return host_.memory; }
    EventLoop& loop() override { return *host_.loop; }
    [[nodiscard]] std::uint64_t features() const override { return state_.driver_features; }
    [[nodiscard]] bool running() const override;
    void signal_used(std::size_t queue) override;
    void signal_config() override;
    void ring() override;
    Result<std::unique_ptr<Port::Watch>> watch(EventLoop::Kind kind, int fd, std::uint32_t events,
                                               EventLoop::Callback callback) override;

    const DeviceHost host_;
    const Place place_;
    UniqueFd bell_;  ///< eventfd

    std::mutex stopper_;  ///< one vCPU at a time stops what is under way; taken before mutex_
    mutable std::mutex mutex_;  // guards all below; taken before the interrupt controller's and the loop's
    MmioStateV1 state_;  ///< its queues' part is in queues_
    std::vector<Queue> queues_;
    bool had_driver_ = false;
    bool stopping_ = false;  ///< a vCPU resets it, or a queue of it
    std::unique_ptr<virtio::Device> device_;
    std::unique_ptr<EventLoop::Watch> watch_;  ///< of the bell; the first to go
};

}  // namespace snapvm::virtio
