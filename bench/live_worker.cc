// SPDX-License-Identifier: Apache-2.0
#include "bench/live_worker.h"

#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "snapshot/report/inspect.h"
#include "vmm/api/bodies.h"
#include "vmm/base/try.h"
#include "vmm/control/machine_service.h"

namespace snapvm::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;
constexpr auto kPatience = std::chrono::seconds(30);
/// Time over which the guest's speed is taken; raw_live has the same default.
constexpr auto kWindow = std::chrono::milliseconds(100);

void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

Status tell(Machine& machine, const std::string& bytes) {
    const std::span all(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    if (machine.serial().send(all, Clock::now() + kPatience) != bytes.size()) {
        return fail(ErrorKind::system, "the guest does not read its serial port");
    }
    return {};
}

// Waits until the guest has written all of its region again, so that the next snapshot always has
// the same pages to write.
Status wait_for_a_sweep(const Stirring& stirring) {
    const std::uint64_t enough = stirring.pages() + stirring.region();
    for (const auto until = Clock::now() + kPatience; stirring.pages() < enough;) {
        if (Clock::now() > until) {
            return fail(ErrorKind::system, "the guest does not stir");
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return {};
}

Result<std::string> one_snapshot(Machine& machine, MachineService& service, const Stirring& stirring,
                                 const std::string& line) {
    const std::size_t body = std::min(line.find('{'), line.size());
    const std::string input = line.substr(0, body);
    const api::SnapshotCreateBody create = TRY(api::parse_snapshot_create(line.substr(body)));
    TRY(machine.resume());
    if (!input.empty()) {
        TRY(tell(machine, "c"));  // an earlier request may have paused its steps
    }
    const SpeedMark earlier(stirring);
    std::this_thread::sleep_for(kWindow);
    if (!input.empty()) {
        TRY(wait_for_a_sweep(stirring));
        TRY(tell(machine, input));
        std::this_thread::sleep_for(kWindow);
    }
    const SpeedMark begin(stirring);
    const SnapshotReport report = TRY(service.snapshot(create.request));
    const SpeedMark end(stirring);
    std::this_thread::sleep_for(kWindow);
    const SpeedMark later(stirring);
    TRY(machine.pause());
    Json answer = Json::parse(to_json(report));
    answer["guest"] = {
        {"before", earlier.rate_to(begin)}, {"during", begin.rate_to(end)}, {"after", end.rate_to(later)}};
    return answer.dump();
}

}  // namespace

Result<int> serve_live(std::span<const std::string> arguments) {
    const StirringGuest guest =
        TRY(StirringGuest::boot({arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]}));
    MachineService service(*guest.machine, "bench");
    say("ready");
    for (std::string line; std::getline(std::cin, line);) {
        // An error is an answer too, because the next request may succeed.
        const auto answer = one_snapshot(*guest.machine, service, guest.stirring, line);
        say(answer ? *answer : Json{{"error", answer.error().message()}}.dump());
    }
    return 0;
}

Result<LiveProcess> LiveProcess::start(const std::string& self, const LiveGuest& guest) {
    Process process = TRY(Process::start(
        {self, "--worker", "live", guest.memory, guest.cpus, guest.dirty, guest.cmdline, guest.balloon}));
    TRY(process.wait_for("ready\n"));
    return LiveProcess(std::move(process));
}

Result<Json> LiveProcess::snapshot(const Json& body, const std::string& input) {
    TRY(process_.send(input + body.dump() + "\n"));
    const std::string line = TRY(process_.line());
    Json answer = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!answer.is_object()) {
        return fail(ErrorKind::invalid, "a worker's line is malformed: " + line);
    }
    if (answer.contains("error")) {
        return fail(ErrorKind::system, answer["error"].get<std::string>());
    }
    return answer;
}

}  // namespace snapvm::bench
