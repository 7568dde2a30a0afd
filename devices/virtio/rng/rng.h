// SPDX-License-Identifier: Apache-2.0
// Random numbers for the guest, from getrandom(2). Source: virtio 1.2, 5.4 "Entropy Device".
#pragma once

#include "devices/virtio/stateful_device.h"

namespace snapvm::virtio {

/// The guest sees nothing of the device but its queue, so it has no state of its own.
struct RngStateV1 {
    void encode(Encoder& /*out*/) const {}
    static RngStateV1 decode(Decoder& /*in*/) { return {}; }
};

/// A source of random numbers. Clones get different ones.
class Rng final : public StatefulDevice<RngStateV1> {
public:
    [[nodiscard]] DeviceType type() const override { return DeviceType::entropy; }
    [[nodiscard]] std::uint64_t features() const override { return 0; }
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    Status attach(Transport& transport) override;
    Status notified(std::size_t queue) override;

private:
    [[nodiscard]] Status check(const RngStateV1& /*state*/) const override { return {}; }
    void adopted() noexcept override {}

    Transport* transport_ = nullptr;
};

}  // namespace snapvm::virtio
