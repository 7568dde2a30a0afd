// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/service.h"

namespace snapvm {

std::string_view name_of(ServiceState state) {
    switch (state) {
        case ServiceState::not_started: return "Not started";
        case ServiceState::running: return "Running";
        case ServiceState::paused: return "Paused";
        case ServiceState::ended: return "Ended";
    }
    return "Ended";
}

Error wrong_state(ServiceState state, const std::optional<Outcome>& outcome) {
    switch (state) {
        case ServiceState::not_started:
            return {ErrorKind::usage, "the instance has no machine yet", "load one with PUT /snapshot/load"};
        case ServiceState::running:
        case ServiceState::paused:
            return {ErrorKind::usage, "this process has a machine already, and a snapshot is loaded into a new one",
                    "use snapvm restore"};
        case ServiceState::ended: break;
    }
    return {ErrorKind::usage, "the machine has ended (" + std::string(outcome ? outcome->name() : "stopped") + ")"};
}

std::string_view name_of(WaitFor what) {
    switch (what) {
        case WaitFor::ready: return "ready";
        case WaitFor::exit: return "exit";
        case WaitFor::serial: return "serial";
    }
    return "ready";
}

}  // namespace snapvm
