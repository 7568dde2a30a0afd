// SPDX-License-Identifier: Apache-2.0
#include "bench/live_worker.h"

#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "guest-images/ledger/image.h"
#include "guest-images/ledger/ledger_format.h"
#include "snapshot/inspect.h"
#include "vmm/api/bodies.h"
#include "vmm/api/machine_service.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;
constexpr auto kPatience = std::chrono::seconds(30);
constexpr auto kWindow = std::chrono::milliseconds(100);  ///< over which the guest's speed is taken; raw_live has the same

void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

/// The counts that the guest keeps of its stirring, read while it runs.
class Stirring {
public:
    static Result<Stirring> find(GuestMemory& memory) {
        Stirring found;
        found.root_ = TRY(memory.load<ledger::Root>(Gpa{ledger::kRootAddress}));
        for (std::uint32_t shard = 0; shard < found.root_.shards && found.root_.stir_pages != 0; ++shard) {
            const Gpa at{ledger::header_address(found.root_, shard) + offsetof(ledger::ShardHeader, stirred)};
            found.counts_.push_back(reinterpret_cast<std::uint64_t*>(TRY(memory.span(at, sizeof(std::uint64_t))).data()));
        }
        return found;
    }
    [[nodiscard]] std::uint64_t pages() const {
        std::uint64_t sum = 0;
        for (std::uint64_t* count : counts_) {
            sum += std::atomic_ref(*count).load(std::memory_order_acquire);
        }
        return sum;
    }
    /// Every page has been written.
    [[nodiscard]] bool swept() const {
        for (std::uint32_t shard = 0; shard < counts_.size(); ++shard) {
            if (std::atomic_ref(*counts_[shard]).load(std::memory_order_acquire) < ledger::stir_share(root_, shard)) {
                return false;
            }
        }
        return true;
    }

private:
    ledger::Root root_{};
    std::vector<std::uint64_t*> counts_;
};

struct Mark {
    explicit Mark(const Stirring& stirring) : ns(now_ns()), pages(stirring.pages()) {}
    [[nodiscard]] double rate_to(const Mark& later) const {
        return static_cast<double>(later.pages - pages) * 1e9 / static_cast<double>(later.ns - ns);
    }
    std::uint64_t ns;
    std::uint64_t pages;
};

Status tell(Machine& machine, const std::string& bytes) {
    const std::span all(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    if (machine.send_input(all, Clock::now() + kPatience) != bytes.size()) {
        return fail(ErrorKind::system, "the guest does not read its serial port");
    }
    return {};
}

Result<std::string> one_snapshot(Machine& machine, api::MachineService& service, const Stirring& stirring,
                                 const std::string& line) {
    const std::size_t body = std::min(line.find('{'), line.size());
    const std::string input = line.substr(0, body);
    const api::SnapshotCreateBody create = TRY(api::parse_snapshot_create(line.substr(body)));
    TRY(machine.resume());
    if (!input.empty()) {
        TRY(tell(machine, "c"));  // it may be pausing since the last time
    }
    const Mark earlier(stirring);
    std::this_thread::sleep_for(kWindow);
    if (!input.empty()) {
        TRY(tell(machine, input));
        std::this_thread::sleep_for(kWindow);
    }
    const Mark begin(stirring);
    const SnapshotReport report = TRY(service.snapshot(create.request));
    const Mark end(stirring);
    std::this_thread::sleep_for(kWindow);
    const Mark later(stirring);
    TRY(machine.pause());
    Json answer = Json::parse(to_json(report));
    answer["guest"] = {{"before", earlier.rate_to(begin)}, {"during", begin.rate_to(end)}, {"after", end.rate_to(later)}};
    return answer.dump();
}

Result<DirtyTracking> tracking_of(const std::string& text) {
    if (text == "auto") {
        return DirtyTracking::automatic;
    }
    if (text == "log") {
        return DirtyTracking::log;
    }
    if (text == "ring") {
        return DirtyTracking::ring;
    }
    return fail(ErrorKind::usage, "--dirty " + text + " is not auto, log or ring");
}

}  // namespace

Result<int> serve_live(std::span<const std::string> arguments) {
    MachineConfig config;
    config.memory_bytes = TRY(parse_size(arguments[0]));
    std::from_chars(arguments[1].data(), arguments[1].data() + arguments[1].size(), config.cpus);
    config.kernel = "builtin:ledger";
    config.cmdline = arguments[3] + " quiet=1";
    config.machine_id = TRY(Uuid::random());
    const kvm::System system = TRY(kvm::System::open());
    const BootSource source{.kernel = ledger_image(), .initrds = {}, .cmdline = config.cmdline, .cpus = config.cpus};
    const auto machine = TRY(Machine::create(system, config, source, {.dirty = TRY(tracking_of(arguments[2]))}));
    api::MachineService service(*machine, "bench");
    TRY(machine->resume());
    if (!machine->wait_ready(Clock::now() + kPatience)) {
        return fail(ErrorKind::system,
                    "the ledger guest does not come to READY: " + machine->console().read(0, Clock::now()).bytes);
    }
    const Stirring stirring = TRY(Stirring::find(machine->memory()));
    for (const auto until = Clock::now() + kPatience; !stirring.swept();) {
        if (Clock::now() > until) {
            return fail(ErrorKind::system, "the guest does not stir");
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    TRY(machine->pause());
    say("ready");
    for (std::string line; std::getline(std::cin, line);) {
        // An error is an answer, too: the next request may go well.
        const auto answer = one_snapshot(*machine, service, stirring, line);
        say(answer ? *answer : Json{{"error", answer.error().message()}}.dump());
    }
    return 0;
}

Result<LiveProcess> LiveProcess::start(const std::string& self, const LiveGuest& guest) {
    Process process = TRY(Process::start({self, "--worker", "live", guest.memory, guest.cpus, guest.dirty, guest.cmdline}));
    TRY(process.wait_for("ready\n"));
    return LiveProcess(std::move(process));
}

Result<Json> LiveProcess::snapshot(const Json& body, const std::string& input) {
    TRY(process_.send(input + body.dump() + "\n"));
    const std::string line = TRY(process_.line());
    Json answer = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!answer.is_object()) {
        return fail(ErrorKind::invalid, "a worker's line makes no sense: " + line);
    }
    if (answer.contains("error")) {
        return fail(ErrorKind::system, answer["error"].get<std::string>());
    }
    return answer;
}

}  // namespace snapvm::bench
