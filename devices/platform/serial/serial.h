// SPDX-License-Identifier: Apache-2.0
// A 16550A UART. Source: National Semiconductor PC16550D data sheet, register summary in section
// 8.0.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "devices/base/stateful_device.h"

namespace snapvm {

/// The state of the UART.
struct SerialStateV1 {
    static constexpr RecordKind kKind = RecordKind::serial;
    static constexpr std::uint16_t kVersion = 1;
    static constexpr std::size_t kFifoSize = 16;

    std::uint16_t divisor = 1;
    std::uint8_t interrupt_enable = 0;
    std::uint8_t fifo_control = 0;
    std::uint8_t line_control = 0;
    std::uint8_t modem_control = 0;
    std::uint8_t scratch = 0;
    bool transmit_interrupt = false;          ///< the empty transmitter has not been acknowledged yet
    bool overrun = false;
    std::optional<std::uint8_t> transmit;     ///< a byte that the output has not taken yet
    std::deque<std::uint8_t> receive;         ///< at most kFifoSize bytes

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<SerialStateV1> decode(std::span<const std::byte> bytes);
};

/// COM1. Sends bytes to an OutputSink and gets them through receive(). Its lock is taken before the
/// interrupt controller's and the output's.
class Serial final : public StatefulDevice<SerialStateV1> {
public:
    Serial(const DeviceHost& host, std::uint32_t gsi) : host_(host), gsi_(gsi) {}

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    /// Sends the byte that waited for the output when the snapshot was taken: no other event does.
    Status restored() override;

    /// Puts bytes into the receive FIFO. Returns how many fitted. Any thread.
    std::size_t receive(std::span<const std::uint8_t> bytes);
    /// Sends the waiting byte, as the output has room again. Any thread, but not from within
    /// OutputSink::put.
    void output_ready();

private:
    std::uint8_t read_register(std::uint64_t offset);
    void write_register(std::uint64_t offset, std::uint8_t value);
    void transmit(std::uint8_t byte);
    void update_interrupt();
    [[nodiscard]] std::uint8_t pending_interrupt() const;

    const DeviceHost host_;
    const std::uint32_t gsi_;
};

}  // namespace snapvm
