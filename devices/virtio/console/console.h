// SPDX-License-Identifier: Apache-2.0
// A terminal for the guest. Source: virtio 1.2, 5.3 "Console Device". One port, with a size.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "devices/device.h"
#include "devices/virtio/device.h"

namespace snapvm::virtio {

/// What of it the guest can tell; untrusted until Console::create has checked it.
struct ConsoleStateV1 {
    static constexpr std::size_t kMaxInput = 4096;

    std::uint16_t columns = 80;
    std::uint16_t rows = 25;
    std::vector<std::byte> input;  ///< typed, and not in a buffer of the guest's yet
    std::uint64_t output_done = 0;  ///< bytes of the next chain that are out already

    void encode(Encoder& out) const;
    static ConsoleStateV1 decode(Decoder& in);
};

class Console final : public Device {
public:
    static Result<std::unique_ptr<Console>> create(OutputSink& output, ConsoleStateV1 state = {});

    [[nodiscard]] DeviceType type() const override { return DeviceType::console; }
    [[nodiscard]] std::uint64_t features() const override { return kFeatureSize; }
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    Status attach(Port& port) override;
    void activate() override;
    Status notified(std::size_t queue) override;
    void reset() override;
    void encode(Encoder& out) const override { state_.encode(out); }

    // From outside the guest, with the transport's lock held (Mmio::locked).
    /// How much of it was taken; the rest when the guest has read.
    std::size_t receive(std::span<const std::uint8_t> bytes);
    void resize(std::uint16_t columns, std::uint16_t rows);
    /// The output has room again. Needs no lock.
    void output_ready() { port_->ring(); }

private:
    static constexpr std::uint64_t kFeatureSize = 1;  // VIRTIO_CONSOLE_F_SIZE

    Console(OutputSink& output, ConsoleStateV1 state) : output_(output), state_(std::move(state)) {}
    Status give_input();
    Status take_output();
    Result<bool> put(const Chain& chain);

    OutputSink& output_;
    ConsoleStateV1 state_;
    Port* port_ = nullptr;
    bool active_ = false;
    Chain chain_;
};

}  // namespace snapvm::virtio
