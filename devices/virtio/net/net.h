// SPDX-License-Identifier: Apache-2.0
// A network interface. Source: virtio 1.2, 5.1 "Network Device". The host's end is a tap
// (devices/tap).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/config/device_config.h"
#include "devices/tap/tap.h"
#include "devices/virtio/stateful_device.h"

namespace snapvm::virtio {

/// What the guest can observe of it. Untrusted until Net::check has checked it. Frames are not
/// saved: networks may lose them.
struct NetStateV1 {
    std::uint64_t switched_off = 0;  ///< offloads that were agreed on and that the driver has switched off since
    bool announce = false;  ///< the driver was asked to announce the guest and has not confirmed it yet

    void encode(Encoder& out) const;
    static NetStateV1 decode(Decoder& in);
};

/// A virtio network interface. Frames for the guest wait in the tap while the driver has no
/// buffers: it is read and watched only if there are some. One frame at most waits here, if it
/// needs more buffers than there are.
///
/// The link is down while the tap is. A frame that the tap rejects shows that it is down; the tap's
/// descriptor tells when it is up again.
class Net final : public StatefulDevice<NetStateV1> {
public:
    Net(const MacAddress& mac, std::unique_ptr<Tap> tap);

    [[nodiscard]] DeviceType type() const override { return DeviceType::net; }
    [[nodiscard]] std::uint64_t features() const override;
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Transport& transport) override;
    void activate() override;
    Status notified(std::size_t queue) override;
    void reset() override;
    Status restored() override;

    [[nodiscard]] bool link_up() const { return link_up_; }

private:
    [[nodiscard]] Status check(const NetStateV1& state) const override;
    void adopted() noexcept override { let_go(); }
    void let_go() noexcept;

    // Link and watch of the tap: net.cc
    [[nodiscard]] bool agreed(std::uint64_t feature) const { return (transport_->features() & feature) != 0; }
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

    // Control queue: control.cc
    [[nodiscard]] std::uint64_t offloads() const;
    void set_tap_offloads();
    Status control();
    Result<bool> carry_out(const Chain& chain);

    const MacAddress mac_;
    Transport* transport_ = nullptr;
    bool link_up_ = false;
    bool gone_ = false;  ///< the tap was removed
    bool receiving_ = false;  ///< the driver has buffers
    bool full_ = false;  ///< the tap has no room for frames at the moment
    std::size_t frame_size_ = 0;  ///< size of the frame that waits in frame_; 0: none
    std::vector<std::byte> frame_;
    std::vector<Chain> buffers_;  ///< the first `taken_` are for the frame; the others keep their memory
    std::size_t taken_ = 0;
    std::vector<Queue::Done> filled_;
    Chain chain_;
    std::vector<iovec> pieces_;
    // Received: to the guest. Transmitted: from the guest. Bytes: without virtio headers.
    Counter received_frames_{counters_, "received_frames"};
    Counter received_bytes_{counters_, "received_bytes"};
    Counter received_dropped_{counters_, "received_dropped"};
    Counter transmitted_frames_{counters_, "transmitted_frames"};
    Counter transmitted_bytes_{counters_, "transmitted_bytes"};
    Counter transmitted_dropped_{counters_, "transmitted_dropped"};

    std::unique_ptr<Tap> tap_;
    std::uint32_t watched_ = 0;  ///< events, if there is a watch
    std::unique_ptr<Transport::Watch> watch_;  ///< destroyed before the tap
};

}  // namespace snapvm::virtio
