// SPDX-License-Identifier: Apache-2.0
#include "bench/stirring_guest.h"

#include <atomic>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <thread>

#include "bench/load_guest.h"
#include "guest-images/ledger/image.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPatience = std::chrono::seconds(30);

std::uint64_t load(std::uint64_t* count) { return std::atomic_ref(*count).load(std::memory_order_acquire); }

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
    return fail(ErrorKind::usage, "--dirty " + text + " is not a tracker", "give auto, log or ring");
}

}  // namespace

Result<Stirring> Stirring::find(GuestMemory& memory) {
    Stirring found;
    found.root_ = TRY(memory.load<ledger::Root>(Gpa{ledger::kRootAddress}));
    for (std::uint32_t shard = 0; shard < found.root_.shards && found.root_.stir_pages != 0; ++shard) {
        const Gpa at{ledger::header_address(found.root_, shard) + offsetof(ledger::ShardHeader, stirred)};
        found.counts_.push_back(reinterpret_cast<std::uint64_t*>(TRY(memory.span(at, sizeof(std::uint64_t))).data()));
    }
    return found;
}

std::uint64_t Stirring::pages() const {
    std::uint64_t sum = 0;
    for (std::uint64_t* count : counts_) {
        sum += load(count);
    }
    return sum;
}

bool Stirring::swept() const {
    for (std::uint32_t shard = 0; shard < counts_.size(); ++shard) {
        if (load(counts_[shard]) < ledger::stir_share(root_, shard)) {
            return false;
        }
    }
    return true;
}

Result<StirringGuest> StirringGuest::boot(const LiveGuest& guest) {
    MachineConfig config;
    config.memory_bytes = TRY(parse_size(guest.memory));
    std::from_chars(guest.cpus.data(), guest.cpus.data() + guest.cpus.size(), config.cpus);
    config.kernel = "builtin:ledger";
    config.cmdline = guest.cmdline + " quiet=1";
    config.machine_id = TRY(Uuid::random());
    if (!guest.balloon.empty()) {
        config.devices.balloon = BalloonConfig{.bytes = TRY(parse_size(guest.balloon))};
    }
    auto system = std::make_unique<kvm::System>(TRY(kvm::System::open()));
    const BootSource source{.kernel = ledger_image(), .initrds = {}, .cmdline = config.cmdline, .cpus = config.cpus};
    auto machine = TRY(Machine::create(*system, config, source, {.dirty = TRY(tracking_of(guest.dirty))}));
    TRY(machine->resume());
    if (!machine->wait_ready(Clock::now() + kPatience)) {
        return fail(ErrorKind::system,
                    "the ledger guest does not say READY: " + machine->serial().output().read(0, Clock::now()).bytes);
    }
    Stirring stirring = TRY(Stirring::find(machine->memory()));
    const auto settled = [&]() -> Result<bool> {
        if (!stirring.swept() || !TRY(load_started(*machine))) {
            return false;
        }
        if (!config.devices.balloon) {
            return true;
        }
        const auto size = TRY(machine->balloon().status());
        return size.actual_bytes == size.target_bytes;
    };
    for (const auto until = Clock::now() + kPatience; !TRY(settled());) {
        if (Clock::now() > until) {
            return fail(ErrorKind::system, "the guest neither stirs nor starts its load");
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    TRY(machine->pause());
    return StirringGuest{std::move(system), std::move(machine), std::move(stirring)};
}

}  // namespace snapvm::bench
