// SPDX-License-Identifier: Apache-2.0
#include "bench/co_process.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "bench/call_times.h"
#include "bench/live_worker.h"
#include "bench/load_guest.h"
#include "bench/process.h"
#include "bench/tracker_worker.h"
#include "guest-images/ledger/image.h"
#include "snapshot/restore/restore.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/machine/machine.h"

namespace snapvm::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPatience = std::chrono::seconds(10);

std::uint64_t ns_of(Clock::time_point time) { return static_cast<std::uint64_t>(time.time_since_epoch().count()); }

std::string text_of_calls() {
    std::ostringstream text;
    for (const CallTime& call : call_times()) {
        text << ' ' << call.name << '(' << call.count << ")=" << static_cast<std::uint64_t>(call.us * 1e3);
    }
    return text.str();
}

void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

// Measures one restore. The machine is gone when this returns.
Result<std::string> restore_once(const kvm::System& system, const AreaPath& area) {
    reset_call_times();
    const std::uint64_t start = now_ns();
    RestoredSnapshot snapshot = TRY(open_snapshot(area));
    const std::uint64_t opened = now_ns();
    const auto machine = TRY(Machine::restore(system, snapshot.saved, std::move(snapshot.memory)));
    const std::uint64_t built = now_ns();
    TRY(machine->resume());
    const auto first = machine->wait_first_run(Clock::now() + kPatience);
    if (!first) {
        return fail(ErrorKind::system, "the restored guest does not run");
    }
    TRY(machine->pause());
    const std::uint64_t total = ns_of(*first) - start;
    const auto slots = static_cast<std::uint64_t>(call_time_us("KVM_SET_USER_MEMORY_REGION") * 1e3);
    std::ostringstream text;
    text << "total=" << total << " slots=" << slots << " rest=" << total - slots << " read=" << snapshot.read_us * 1000
         << " map=" << snapshot.map_us * 1000 << " build=" << built - opened << " run=" << ns_of(*first) - built
         << text_of_calls();
    return text.str();
}

Result<int> serve_restores(const std::string& area_text) {
    const AreaPath area = TRY(AreaPath::parse(area_text));
    const kvm::System system = TRY(kvm::System::open());
    char byte = 0;
    while (::read(STDIN_FILENO, &byte, 1) == 1) {
        say(TRY(restore_once(system, area)));
    }
    return 0;
}

// Makes the library calls of `snapvm run`, and prints the time of each since the process was
// started.
Result<int> boot_in_parts(const std::string& memory, const std::string& cmdline) {
    const std::uint64_t main_at = now_ns();
    const char* stamp = std::getenv("RAW_BOOT_T0");
    const std::uint64_t start = stamp == nullptr ? main_at : std::strtoull(stamp, nullptr, 10);
    MachineConfig config;
    config.memory_bytes = TRY(parse_size(memory));
    config.kernel = "builtin:ledger";
    config.cmdline = cmdline;
    config.machine_id = TRY(Uuid::random());
    reset_call_times();
    const kvm::System system = TRY(kvm::System::open());
    const std::uint64_t opened = now_ns();
    const auto machine =
        TRY(Machine::create(system, config, BootSource{.kernel = ledger_image(), .initrds = {}, .cmdline = cmdline}));
    const std::uint64_t built = now_ns();
    TRY(machine->resume());
    const std::uint64_t resumed = now_ns();
    if (!machine->wait_ready(Clock::now() + kPatience)) {
        return fail(ErrorKind::system, "the ledger guest does not say READY");
    }
    const std::uint64_t ready = now_ns();
    std::ostringstream text;
    text << "main=" << main_at - start << " kvm=" << opened - start << " machine=" << built - start
         << " resume=" << resumed - start << " ready=" << ready - start;
    say(text.str());
    say(text_of_calls());
    return 0;
}

}  // namespace

Result<int> run_worker(std::span<const std::string> arguments) {
    if (arguments.size() == 2 && arguments[0] == "restore") {
        return serve_restores(arguments[1]);
    }
    if (arguments.size() == 3 && arguments[0] == "boot") {
        return boot_in_parts(arguments[1], arguments[2]);
    }
    if (arguments.size() == 6 && arguments[0] == "live") {
        return serve_live(arguments.subspan(1));
    }
    if (arguments.size() == kLoadArguments + 1 && arguments[0] == "load") {
        return serve_load(arguments.subspan(1));
    }
    if (arguments.size() == 5 && arguments[0] == "trackers") {
        return serve_trackers(arguments.subspan(1));
    }
    return fail(ErrorKind::usage, "there is no such worker");
}

Parts parse_parts(const std::string& line, double divisor) {
    Parts parts;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
        if (const std::size_t at = word.find('='); at != std::string::npos) {
            parts.emplace_back(word.substr(0, at), std::strtod(word.c_str() + at + 1, nullptr) / divisor);
        }
    }
    return parts;
}

Parts steps_of(const Parts& since_start) {
    Parts steps;
    double before = 0;
    for (const auto& [name, us] : since_start) {
        steps.emplace_back(name, us - before);
        before = us;
    }
    return steps;
}

}  // namespace snapvm::bench
