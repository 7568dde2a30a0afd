// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/serial.h"

#include "guest-images/ledger/apic.h"

namespace snapvm::guest {
namespace {

constexpr u16 kInterruptEnable = PORT_SERIAL + 1;
constexpr u16 kModemControl = PORT_SERIAL + 4;
constexpr u16 kLineStatus = PORT_SERIAL + 5;
constexpr u8 kDataReady = 1;
constexpr u32 kPin = 4;

bool absent = false;
bool polled = false;

}  // namespace

Line& Line::text(const char* text) {
    while (*text != 0 && size_ < sizeof bytes_ - 1) bytes_[size_++] = *text++;
    return *this;
}

Line& Line::number(u64 value) {
    char digits[21];
    u32 i = sizeof digits;
    digits[--i] = 0;
    do {
        digits[--i] = static_cast<char>('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return text(digits + i);
}

Line& Line::number_signed(std::int64_t value) {
    if (value >= 0) return number(static_cast<u64>(value));
    return text("-").number(0 - static_cast<u64>(value));
}

Line& Line::hex(u64 value) {
    char digits[17];
    u32 i = sizeof digits;
    digits[--i] = 0;
    do {
        digits[--i] = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value != 0);
    return text("0x").text(digits + i);
}

void Line::print() {
    bytes_[size_++] = '\n';
    out8_string(PORT_SERIAL, bytes_, size_);
    size_ = 0;
}

void print_char(char c) { out8(PORT_SERIAL, static_cast<u8>(c)); }

void enable_serial_input() {
    absent = in8(kLineStatus) == 0xff;
    if (absent) return;
    polled = !route_interrupt(kPin, VECTOR_SERIAL);
    // The line rises here if a byte is waiting already. The route was set before, so that the edge
    // is not lost.
    out8(kModemControl, 0x0b);  // DTR, RTS, OUT2: the last gates the interrupt
    out8(kInterruptEnable, 1);
}

bool serial_input_needs_polling() { return polled; }

int read_serial() {
    if (absent || (in8(kLineStatus) & kDataReady) == 0) return -1;
    return in8(PORT_SERIAL);
}

}  // namespace snapvm::guest
