// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/serial/serial.h"

#include <algorithm>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Register offsets. The first two have another meaning while DLAB is set.
enum Register : std::uint64_t {
    kData = 0,
    kIer = 1,
    kIirFcr = 2,
    kLcr = 3,
    kMcr = 4,
    kLsr = 5,
    kMsr = 6,
    kScratch = 7
};

constexpr std::uint8_t kDivisorLatch = 0x80;  // LCR bit 7
constexpr std::uint8_t kIerReceive = 0x01;
constexpr std::uint8_t kIerTransmit = 0x02;
constexpr std::uint8_t kIerLine = 0x04;
constexpr std::uint8_t kIerMask = 0x0F;
constexpr std::uint8_t kFcrEnable = 0x01;
constexpr std::uint8_t kFcrClearReceive = 0x02;
constexpr std::uint8_t kFcrKept = 0xC9;  // enable, DMA mode, trigger level
constexpr std::uint8_t kIirNone = 0x01;
constexpr std::uint8_t kIirTransmit = 0x02;
constexpr std::uint8_t kIirReceive = 0x04;
constexpr std::uint8_t kIirLine = 0x06;
constexpr std::uint8_t kIirFifo = 0xC0;
constexpr std::uint8_t kLsrDataReady = 0x01;
constexpr std::uint8_t kLsrOverrun = 0x02;
constexpr std::uint8_t kLsrTransmitEmpty = 0x60;  // holding register and shifter
constexpr std::uint8_t kMcrLoop = 0x10;
constexpr std::uint8_t kMcrOut2 = 0x08;  // gates the interrupt line on a PC
constexpr std::uint8_t kMsrConnected = 0xB0;  // CTS, DSR, DCD: the other end is always connected

}  // namespace

std::vector<std::byte> SerialStateV1::encode() const {
    Encoder out;
    out.u16(divisor);
    for (const std::uint8_t value : {interrupt_enable, fifo_control, line_control, modem_control, scratch}) {
        out.u8(value);
    }
    out.boolean(transmit_interrupt);
    out.boolean(overrun);
    out.boolean(transmit.has_value());
    out.u8(transmit.value_or(0));
    out.u8(static_cast<std::uint8_t>(receive.size()));
    for (const std::uint8_t byte : receive) {
        out.u8(byte);
    }
    return out.take();
}

Result<SerialStateV1> SerialStateV1::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    SerialStateV1 state;
    state.divisor = in.u16();
    for (std::uint8_t* field :
         {&state.interrupt_enable, &state.fifo_control, &state.line_control, &state.modem_control, &state.scratch}) {
        *field = in.u8();
    }
    state.transmit_interrupt = in.boolean();
    state.overrun = in.boolean();
    const bool waiting = in.boolean();
    const std::uint8_t byte = in.u8();
    if (waiting) {
        state.transmit = byte;
    }
    const std::uint8_t received = in.u8();
    for (const std::byte value : in.take(received)) {
        state.receive.push_back(std::to_integer<std::uint8_t>(value));
    }
    TRY(in.finish("serial port's state"));
    if (received > kFifoSize || (state.interrupt_enable & ~kIerMask) != 0 || (!waiting && byte != 0)) {
        return fail(ErrorKind::invalid, "serial port's state is not possible for a 16550");
    }
    return state;
}

Status Serial::restored() {
    output_ready();
    return {};
}

void Serial::read(std::uint64_t offset, std::span<std::byte> data) {
    // Each register is one byte wide. A wider access reaches adjacent registers, as if the bus had
    // split it.
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = std::byte{read_register(offset + i)};
    }
    update_interrupt();
}

void Serial::write(std::uint64_t offset, std::span<const std::byte> data) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < data.size(); ++i) {
        write_register(offset + i, std::to_integer<std::uint8_t>(data[i]));
    }
    update_interrupt();
}

std::uint8_t Serial::read_register(std::uint64_t offset) {
    const bool latch = (state_.line_control & kDivisorLatch) != 0;
    switch (offset) {
        case kData: {
            if (latch) {
                return static_cast<std::uint8_t>(state_.divisor);
            }
            if (state_.receive.empty()) {
                return 0;
            }
            const std::uint8_t byte = state_.receive.front();
            state_.receive.pop_front();
            return byte;
        }
        case kIer: return latch ? static_cast<std::uint8_t>(state_.divisor >> 8) : state_.interrupt_enable;
        case kIirFcr: {
            const std::uint8_t pending = pending_interrupt();
            if (pending == kIirTransmit) {
                state_.transmit_interrupt = false;  // reading IIR acknowledges this one
            }
            return pending | ((state_.fifo_control & kFcrEnable) != 0 ? kIirFifo : 0);
        }
        case kLcr: return state_.line_control;
        case kMcr: return state_.modem_control;
        case kLsr: {
            const auto status = static_cast<std::uint8_t>((state_.receive.empty() ? 0 : kLsrDataReady) |
                                                          (state_.overrun ? kLsrOverrun : 0) |
                                                          (state_.transmit ? 0 : kLsrTransmitEmpty));
            state_.overrun = false;
            return status;
        }
        case kMsr:
            // In loop-back mode the outputs (DTR, RTS, OUT1, OUT2) are connected to the inputs.
            // Linux probes the chip with it.
            if ((state_.modem_control & kMcrLoop) != 0) {
                const std::uint8_t out = state_.modem_control;
                return static_cast<std::uint8_t>(((out & 0x02) << 3) | ((out & 0x01) << 5) | ((out & 0x0C) << 4));
            }
            return kMsrConnected;
        default: return state_.scratch;
    }
}

void Serial::write_register(std::uint64_t offset, std::uint8_t value) {
    const bool latch = (state_.line_control & kDivisorLatch) != 0;
    switch (offset) {
        case kData:
            if (latch) {
                state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0xFF00) | value);
            } else {
                transmit(value);
            }
            break;
        case kIer:
            if (latch) {
                state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0x00FF) | value << 8);
            } else {
                // If the transmitter is empty, enabling its interrupt raises it at once.
                const bool newly = (value & kIerTransmit) != 0 && (state_.interrupt_enable & kIerTransmit) == 0;
                state_.transmit_interrupt = (state_.transmit_interrupt || newly) && !state_.transmit;
                state_.interrupt_enable = value & kIerMask;
            }
            break;
        case kIirFcr:
            if ((value & kFcrClearReceive) != 0) {
                state_.receive.clear();
            }
            state_.fifo_control = value & kFcrKept;
            break;
        case kLcr: state_.line_control = value; break;
        case kMcr: state_.modem_control = value & 0x1F; break;
        case kScratch: state_.scratch = value; break;
        default: break;  // LSR and MSR are read-only
    }
}

void Serial::transmit(std::uint8_t byte) {
    state_.transmit_interrupt = false;
    if ((state_.modem_control & kMcrLoop) != 0) {
        if (state_.receive.size() < SerialStateV1::kFifoSize) {
            state_.receive.push_back(byte);
        } else {
            state_.overrun = true;
        }
        state_.transmit_interrupt = true;
    } else if (!state_.transmit && host_.serial_output.put(byte)) {
        state_.transmit_interrupt = true;
    } else {
        state_.transmit = byte;  // if the guest does not wait for LSR, it overwrites the waiting byte, as on the chip
    }
}

std::size_t Serial::receive(std::span<const std::uint8_t> bytes) {
    const std::lock_guard lock(mutex_);
    const std::size_t room = SerialStateV1::kFifoSize - std::min(SerialStateV1::kFifoSize, state_.receive.size());
    const std::size_t taken = std::min(room, bytes.size());
    state_.receive.insert(state_.receive.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    update_interrupt();
    return taken;
}

void Serial::output_ready() {
    const std::lock_guard lock(mutex_);
    if (state_.transmit && host_.serial_output.put(*state_.transmit)) {
        state_.transmit.reset();
        state_.transmit_interrupt = true;
        update_interrupt();
    }
}

std::uint8_t Serial::pending_interrupt() const {
    const std::uint8_t enabled = state_.interrupt_enable;
    if ((enabled & kIerLine) != 0 && state_.overrun) {
        return kIirLine;
    }
    if ((enabled & kIerReceive) != 0 && !state_.receive.empty()) {
        return kIirReceive;
    }
    if ((enabled & kIerTransmit) != 0 && state_.transmit_interrupt) {
        return kIirTransmit;
    }
    return kIirNone;
}

void Serial::update_interrupt() {
    const bool wired = (state_.modem_control & (kMcrOut2 | kMcrLoop)) == kMcrOut2;
    host_.interrupts->set_level(gsi_, wired && pending_interrupt() != kIirNone);
}

}  // namespace snapvm
