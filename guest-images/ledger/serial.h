// SPDX-License-Identifier: Apache-2.0
// COM1. A line goes out with one string instruction (one exit); command bytes come in.
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest {

// A line of text under construction. Text that does not fit is cut at the end.
class Line {
public:
    Line& text(const char* text);
    Line& number(u64 value);
    Line& number_signed(std::int64_t value);
    Line& hex(u64 value);
    // Writes the line, with a newline.
    void print();

private:
    char bytes_[240];
    u32 size_ = 0;
};

void print_char(char c);

// Receives interrupts through IOAPIC pin 4 on this vCPU. Without an IOAPIC, input has to be polled;
// without a UART there is none.
void enable_serial_input();
bool serial_input_needs_polling();
// Returns the next byte received, -1 if there is none.
int read_serial();

}  // namespace snapvm::guest
