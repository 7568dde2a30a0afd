// SPDX-License-Identifier: Apache-2.0
// Boots the built-in guest, writes a snapshot of it, ends it, and restores it. Usage: example
// [AREA]
#include <snapvm/machine.h>

#include <cstdio>
#include <cstdlib>
#include <type_traits>

using namespace std::chrono_literals;
using namespace snapvm::embed;

// Returns the value of a result, or ends the program with the error's line.
template <class T>
T need(snapvm::Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "example: %s\n", result.error().message().c_str());
        std::exit(1);
    }
    if constexpr (!std::is_void_v<T>) {
        return *std::move(result);
    }
}

int main(int count, char** arguments) {
    const snapvm::Result<Host> host = Host::open();
    if (!host) {
        std::printf("example: needs /dev/kvm: %s\n", host.error().message().c_str());
        return 0;
    }
    const Area area{.path = count > 1 ? arguments[1] : "example.snap"};
    {
        Machine machine = need(Machine::create(*host, {.kernel = "builtin:ledger", .command_line = "ws=4M"}));
        need(machine.resume());
        std::printf("the guest says: %s\n", need(machine.wait_line("READY", 60s)).value_or("nothing").c_str());
        const SnapshotReport report = need(machine.snapshot(area, {.then = AfterSnapshot::stop}));
        std::printf("snapshot: pause %ld us, %lu bytes\n", report.pause.count(), report.written_bytes);
    }
    Machine machine = need(Machine::restore(*host, area));
    need(machine.resume());
    const StartTimes times = machine.start_times(60s).value_or(StartTimes{});
    std::printf("restore: %ld us until the guest runs\n", times.total.count());
    machine.send_serial("q");  // the guest checks its memory, and ends with 0 if it is sound
    const Outcome outcome = machine.wait_ended(60s).value_or(Outcome{.exit_code = 124, .name = "still running"});
    std::printf("the guest ended: %s %d\n", outcome.name.c_str(), outcome.exit_code);
    return outcome.exit_code;
}
