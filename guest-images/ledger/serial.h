// SPDX-License-Identifier: Apache-2.0
// COM1: lines out with one string instruction (one exit) each, command bytes in.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// A line of text under construction; longer ones are cut at the end.
class Line {
public:
    Line& text(const char* text);
    Line& number(u64 value);
    Line& number_signed(std::int64_t value);
    Line& hex(u64 value);
    // Writes it with a newline.
    void print();

private:
    char bytes_[240];
    u32 size_ = 0;
};

void print_char(char c);

// Receive interrupts through IOAPIC pin 4 to this vCPU. Without an IOAPIC or a UART input has to be polled.
void enable_serial_input();
bool serial_input_needs_polling();
// The next byte received, or -1.
int read_serial();

}  // namespace snapvm::guest
