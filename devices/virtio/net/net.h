// SPDX-License-Identifier: Apache-2.0
// A network interface. Source: virtio 1.2, 5.1 "Network Device". The host's end is a tap (devices/tap).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/device_config.h"
#include "devices/tap/tap.h"
#include "devices/virtio/device.h"
#include "devices/virtio/net/counters.h"

namespace snapvm::virtio {

/// What of it the guest can tell; untrusted until Net::create has checked it. A frame is in no snapshot: networks lose some.
struct NetStateV1 {
    std::uint64_t switched_off = 0;  ///< of the offloads that were agreed on, by the driver
    bool announce = false;  ///< the driver was asked to announce itself and has not said yet that it did

    void encode(Encoder& out) const;
    static NetStateV1 decode(Decoder& in);
};

/// Frames for the guest wait in the tap while the driver has no buffers: it is read when there are some, and watched only then. At most
/// one that needs more buffers than there are yet waits here.
///
/// The link is down while the tap is, which a frame finds out that the tap does not take; that it is up again the tap tells.
class Net final : public Device {
public:
    static Result<std::unique_ptr<Net>> create(const MacAddress& mac, std::unique_ptr<Tap> tap, const NetStateV1& state = {});

    [[nodiscard]] DeviceType type() const override { return DeviceType::net; }
    [[nodiscard]] std::uint64_t features() const override;
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Port& port) override;
    void activate() override;
    Status notified(std::size_t queue) override;
    void reset() override;
    Status restored() override;
    void encode(Encoder& out) const override { state_.encode(out); }

    [[nodiscard]] bool link_up() const { return link_up_; }
    [[nodiscard]] const NetCounters& counters() const { return counters_; }

private:
    Net(const MacAddress& mac, std::unique_ptr<Tap> tap, const NetStateV1& state);

    // The link, and what the tap is watched for: net.cc
    [[nodiscard]] bool agreed(std::uint64_t feature) const { return (port_->features() & feature) != 0; }
    void look_at_link();
    void set_link(bool up);
    void lose_tap();
    void watch();
    void tap_ready();

    // Frames: traffic.cc
    enum class Room : std::uint8_t { enough, later, never };
    Status receive();
    [[nodiscard]] bool read_frame();
    [[nodiscard]] bool suit_to_driver();
    void drop_frame();
    Result<bool> deliver();
    Result<Room> take_buffers();
    Status transmit();
    Result<TapAnswer> send(const Chain& chain);

    // control.cc
    [[nodiscard]] std::uint64_t offloads() const;
    void set_tap_offloads();
    Status control();
    Result<bool> carry_out(const Chain& chain);

    const MacAddress mac_;
    NetStateV1 state_;
    Port* port_ = nullptr;
    bool link_up_ = false;
    bool gone_ = false;  ///< the tap, for good
    bool receiving_ = false;  ///< the driver has buffers
    bool full_ = false;  ///< the tap takes no more frames for now
    std::size_t frame_size_ = 0;  ///< of what waits in frame_; 0: nothing
    std::vector<std::byte> frame_;
    std::vector<Chain> buffers_;  ///< the first `taken_` are what it goes into; the rest is kept for its memory
    std::size_t taken_ = 0;
    std::vector<Queue::Done> filled_;
    Chain chain_;
    std::vector<iovec> pieces_;
    NetCounters counters_;

    std::unique_ptr<Tap> tap_;
    std::uint32_t watched_ = 0;  ///< events, while there is a watch
    std::unique_ptr<Port::Watch> watch_;  ///< goes before the tap
};

}  // namespace snapvm::virtio
