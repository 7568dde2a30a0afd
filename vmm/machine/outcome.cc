// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/outcome.h"

namespace snapvm {

int Outcome::exit_code() const {
    switch (kind) {
        case Kind::power_off:
        case Kind::reboot:
        case Kind::stopped: return 0;
        case Kind::guest_exit: return code;
        case Kind::failed: return 1;
        case Kind::guest_panic: return 3;
        case Kind::triple_fault: return 4;
        case Kind::timed_out: return 124;
    }
    return 1;
}

std::string_view Outcome::name() const {
    switch (kind) {
        case Kind::power_off: return "power-off";
        case Kind::reboot: return "reboot";
        case Kind::guest_exit: return "exit";
        case Kind::triple_fault: return "triple-fault";
        case Kind::guest_panic: return "panic";
        case Kind::failed: return "failed";
        case Kind::stopped: return "stopped";
        case Kind::timed_out: return "timeout";
    }
    return "unknown";
}

}  // namespace snapvm
