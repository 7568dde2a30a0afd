// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/power.h"

#include "guest-images/ledger/serial.h"

namespace snapvm::guest {
namespace {

constexpr u16 kReady = PORT_TEST, kExit = PORT_TEST + 4, kMark = PORT_TEST + 8;
constexpr int kExitPanic = 98;

bool test_port = false;

[[noreturn]] void stay_here() {
    for (;;) halt(self().events);
}

}  // namespace

void set_test_port(u32 magic) { test_port = magic == TEST_MAGIC; }
bool has_test_port() { return test_port; }
void test_ready() {
    if (test_port) out32(kReady, 1);
}
void test_mark(u32 value) {
    if (test_port) out32(kMark, value);
}

[[noreturn]] void exit_guest(int code) {
    if (test_port) out32(kExit, static_cast<u32>(code));
    reboot();
}
[[noreturn]] void reboot() {
    out8(PORT_KEYBOARD, 0xfe);
    stay_here();
}
[[noreturn]] void power_off() {
    out8(PORT_SLEEP, 0x34);
    stay_here();
}
[[noreturn]] void debug_exit(u8 value) {
    out8(PORT_DEBUG_EXIT, value);
    stay_here();
}
[[noreturn]] void panic(const char* why) {
    Line().text("LEDGER BAD setup ").text(why).print();
    exit_guest(kExitPanic);
}

}  // namespace snapvm::guest
