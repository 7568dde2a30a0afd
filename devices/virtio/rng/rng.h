// SPDX-License-Identifier: Apache-2.0
// Random numbers for the guest, from getrandom(2). Source: virtio 1.2, 5.4 "Entropy Device".
#pragma once

#include "devices/virtio/device.h"

namespace snapvm::virtio {

/// Nothing of it is the guest's to see but its queue, so it has no state of its own: clones draw different numbers.
class Rng final : public Device {
public:
    [[nodiscard]] DeviceType type() const override { return DeviceType::entropy; }
    [[nodiscard]] std::uint64_t features() const override { return 0; }
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    Status attach(Port& port) override;
    Status notified(std::size_t queue) override;
    void encode(Encoder& out) const override { (void)out; }

private:
    Port* port_ = nullptr;
};

}  // namespace snapvm::virtio
