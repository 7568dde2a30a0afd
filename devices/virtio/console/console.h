// SPDX-License-Identifier: Apache-2.0
// A console for the guest. Source: virtio 1.2, 5.3 "Console Device". It has one port, with a size.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "devices/base/device.h"
#include "devices/virtio/stateful_device.h"

namespace snapvm::virtio {

/// What the guest can observe of the console. Untrusted until Console::check has checked it.
struct ConsoleStateV1 {
    static constexpr std::size_t kMaxInput = 4096;

    std::uint16_t columns = 80;
    std::uint16_t rows = 25;
    std::vector<std::byte> input;  ///< received from outside, and not in a buffer of the guest yet
    std::uint64_t output_done = 0;  ///< bytes of the next chain that are put out already

    void encode(Encoder& out) const;
    static ConsoleStateV1 decode(Decoder& in);
};

/// A virtio console.
class Console final : public StatefulDevice<ConsoleStateV1> {
public:
    explicit Console(OutputSink& output) : output_(output) {}

    [[nodiscard]] DeviceType type() const override { return DeviceType::console; }
    [[nodiscard]] std::uint64_t features() const override { return kFeatureSize; }
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Transport& transport) override;
    void activate() override;
    Status notified(std::size_t queue) override;
    void reset() override;

    // For callers other than the guest, with the transport's lock held (Mmio::locked).
    /// Takes input for the guest. Returns how many bytes it took; more fit once the guest has read.
    std::size_t receive(std::span<const std::uint8_t> bytes);
    /// Sets the size in characters and tells the driver.
    void resize(std::uint16_t columns, std::uint16_t rows);
    /// Continues the output, as there is room again. Needs no lock.
    void output_ready() { transport_->ring(); }

private:
    static constexpr std::uint64_t kFeatureSize = 1;  // VIRTIO_CONSOLE_F_SIZE

    [[nodiscard]] Status check(const ConsoleStateV1& state) const override;
    void adopted() noexcept override { active_ = false; }
    Status give_input();
    Status take_output();
    Result<bool> put(const Chain& chain);

    OutputSink& output_;
    Transport* transport_ = nullptr;
    bool active_ = false;
    Chain chain_;
};

}  // namespace snapvm::virtio
