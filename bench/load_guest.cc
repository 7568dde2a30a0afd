// SPDX-License-Identifier: Apache-2.0
#include "bench/load_guest.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <sstream>
#include <thread>

#include "bench/co_process.h"
#include "bench/usage.h"
#include "guest-images/ledger/image.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/machine/machine.h"

namespace snapvm::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPatience = std::chrono::seconds(60);
/// Adds at most this much to a time that is at least a hundred times as long.
constexpr auto kPoll = std::chrono::microseconds(200);
constexpr const char* kDeviceId = "bench";

class LoadGuest {
public:
    static Result<LoadGuest> boot(const LoadSetup& setup);
    Result<std::string> carry_out(ledger::LoadOrder order);
    Result<std::string> inflate(std::uint64_t bytes);

private:
    LoadGuest(std::unique_ptr<kvm::System> system, std::unique_ptr<Machine> machine, UsageMeter meter)
        : system_(std::move(system)), machine_(std::move(machine)), meter_(std::move(meter)) {}
    Result<ledger::Load> load() const { return machine_->memory().load<ledger::Load>(Gpa{ledger::kLoadAddress}); }
    template <class Done>
    Status wait(const char* what, Done done);
    template <class Begin, class Done>
    Result<std::string> timed(const char* what, Begin begin, Done done);

    std::unique_ptr<kvm::System> system_;
    std::unique_ptr<Machine> machine_;
    UsageMeter meter_;
    std::uint64_t number_ = 0;
};

// Calls `done` periodically until it returns true.
template <class Done>
Status LoadGuest::wait(const char* what, Done done) {
    for (const auto until = Clock::now() + kPatience; !TRY(done());) {
        if (Clock::now() > until || machine_->wait_ended(Clock::now())) {
            return fail(ErrorKind::system,
                        std::string("the guest does not finish ") + what + " (" + std::to_string(TRY(load()).done) +
                            " done); it says: " + machine_->serial().output().read(0, Clock::now()).bytes);
        }
        std::this_thread::sleep_for(kPoll);
    }
    return {};
}

Result<LoadGuest> LoadGuest::boot(const LoadSetup& setup) {
    MachineConfig config;
    config.memory_bytes = TRY(parse_size(setup.memory));
    config.kernel = "builtin:ledger";
    config.cmdline = load_command_line(setup.region, setup.receive) + " quiet=1";
    config.machine_id = TRY(Uuid::random());
    if (!setup.disk.empty()) {
        config.devices.disks.push_back({.id = kDeviceId, .path = setup.disk});
    }
    if (!setup.vsock.empty()) {
        config.devices.vsock = VsockConfig{.cid = 3, .socket = setup.vsock};
    }
    if (!setup.tap.empty()) {
        config.devices.nets.push_back({.id = kDeviceId, .tap = setup.tap, .mac = {0x02, 0, 0, 0, 0, 1}});
    }
    if (setup.balloon) {
        config.devices.balloon = BalloonConfig{};
    }
    auto system = std::make_unique<kvm::System>(TRY(kvm::System::open()));
    const BootSource source{.kernel = ledger_image(), .initrds = {}, .cmdline = config.cmdline};
    auto machine = TRY(Machine::create(*system, config, source));
    UsageMeter meter = TRY(UsageMeter::open(*machine));
    LoadGuest guest(std::move(system), std::move(machine), std::move(meter));
    TRY(guest.machine_->resume());
    TRY(guest.wait("its start", [&] { return load_started(*guest.machine_); }));
    TRY(guest.machine_->pause());
    return guest;
}

template <class Begin, class Done>
Result<std::string> LoadGuest::timed(const char* what, Begin begin, Done done) {
    TRY(machine_->resume());
    const Usage before = TRY(meter_.now());
    const std::uint64_t start = now_ns();
    TRY(begin());
    TRY(wait(what, done));
    const std::uint64_t end = now_ns();
    const Usage cost = TRY(meter_.now()).since(before);
    TRY(machine_->pause());
    return "ns=" + std::to_string(end - start) + " " + cost.text();
}

Result<std::string> LoadGuest::carry_out(ledger::LoadOrder order) {
    GuestMemory& memory = machine_->memory();
    const std::uint64_t number = ++number_;
    const Gpa at{ledger::kLoadAddress};
    std::string text = TRY(timed(
        "its order",
        [&]() -> Status {
            TRY(memory.store(at + offsetof(ledger::Load, order), order));
            std::atomic_thread_fence(std::memory_order_release);
            TRY(memory.store(at + offsetof(ledger::Load, number), number));
            const std::uint8_t go = 'l';
            (void)machine_->serial().send(std::span(&go, 1), Clock::now() + kPatience);
            return {};
        },
        [&]() -> Result<bool> { return TRY(load()).finished == number; }));
    const ledger::Load load = TRY(this->load());
    if (load.fault != ledger::LoadFault::none) {
        return fail(ErrorKind::system, "the guest could not carry out its order: fault " +
                                           std::to_string(static_cast<unsigned>(load.fault)));
    }
    return text + " done=" + std::to_string(load.done) + " notifications=" + std::to_string(load.notifications) +
           " interrupts=" + std::to_string(load.interrupts);
}

Result<std::string> LoadGuest::inflate(std::uint64_t bytes) {
    return timed(
        "its balloon", [&] { return machine_->balloon().set_target(bytes); },
        [&]() -> Result<bool> { return TRY(machine_->balloon().status()).actual_bytes == bytes; });
}

void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

Result<std::string> answer(LoadGuest& guest, const std::string& line) {
    std::istringstream words(line);
    std::string what;
    std::uint64_t kind = 0;
    ledger::LoadOrder order{};
    words >> what;
    if (what == "balloon") {
        words >> order.size;
        return guest.inflate(order.size);
    }
    words >> kind >> order.random >> order.size >> order.count >> order.depth >> order.batch >> order.seed;
    if (what != "order" || !words) {
        return fail(ErrorKind::usage, "there is no order " + line);
    }
    order.kind = static_cast<ledger::LoadKind>(kind);
    return guest.carry_out(order);
}

}  // namespace

// The guest has no ticks and makes no steps.
std::string load_command_line(const std::string& region, const std::string& receive) {
    return "ws=64K hz=0 paused=1 load=" + region + " loadrx=" + receive;
}

Result<bool> load_started(const Machine& machine) {
    return machine.config().cmdline.find("load=") == std::string::npos ||
           TRY(machine.memory().load<ledger::Load>(Gpa{ledger::kLoadAddress})).magic == ledger::kLoadMagic;
}

Result<int> serve_load(std::span<const std::string> arguments) {
    LoadGuest guest = TRY(LoadGuest::boot({.memory = arguments[0],
                                           .region = arguments[1],
                                           .receive = arguments[2],
                                           .disk = arguments[3],
                                           .vsock = arguments[4],
                                           .tap = arguments[5],
                                           .balloon = !arguments[6].empty()}));
    say("ready");
    for (std::string line; std::getline(std::cin, line);) {
        say(TRY(answer(guest, line)));
    }
    return 0;
}

Result<LoadProcess> LoadProcess::start(const std::string& self, const LoadSetup& setup) {
    Process process = TRY(Process::start({self, "--worker", "load", setup.memory, setup.region, setup.receive,
                                          setup.disk, setup.vsock, setup.tap, setup.balloon ? "balloon" : ""}));
    TRY(process.wait_for("ready\n"));
    return LoadProcess(std::move(process));
}

Status LoadProcess::begin(const ledger::LoadOrder& order) {
    std::ostringstream line;
    line << "order " << static_cast<std::uint32_t>(order.kind) << ' ' << order.random << ' ' << order.size << ' '
         << order.count << ' ' << order.depth << ' ' << order.batch << ' ' << order.seed << '\n';
    return process_.send(line.str());
}

Result<Parts> LoadProcess::end() { return parse_parts(TRY(process_.line()), 1); }

Result<Parts> LoadProcess::run(const ledger::LoadOrder& order) {
    TRY(begin(order));
    return end();
}

Result<Parts> LoadProcess::inflate(std::uint64_t bytes) {
    TRY(process_.send("balloon " + std::to_string(bytes) + "\n"));
    return end();
}

double part_of(const Parts& parts, const std::string& name) {
    for (const auto& [key, value] : parts) {
        if (key == name) {
            return value;
        }
    }
    return 0;
}

}  // namespace snapvm::bench
