// SPDX-License-Identifier: Apache-2.0
// pause: how long a live snapshot stops a guest that writes as fast as it can, and how much slower
// the guest is during the snapshot.
//
// On both sides the clock of the pause runs from just before the vCPUs are asked to stop until the
// last one is on its way back into KVM_RUN. One of the two guests runs at a time. The floor copies
// into its own memory by the dirty log, whichever tracker ours uses, and saves no state. Its first
// round is held to a disk's speed, so that the guest has the same time to write meanwhile.
#include <cstdio>
#include <optional>

#include "bench/co_process.h"
#include "bench/live_worker.h"
#include "bench/scenario.h"
#include "bench/throttle.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

using Json = nlohmann::json;
constexpr const char* kScenario = "pause";
/// What the guest needs besides the stirred region.
constexpr std::uint64_t kBesides = 16ULL << 20;

struct Case {
    LiveGuest guest;
    std::string hot;
    std::string rate;
    std::string mode;
    std::string staging;  ///< "": the product's default

    [[nodiscard]] std::string name() const {
        return guest.memory + " hot=" + hot + (rate == "0" ? " " : " " + rate + "/s ") + guest.cpus + "cpu " +
               guest.dirty + " " + mode + (staging.empty() ? "" : " staging=" + staging);
    }
};

double part(const Parts& parts, const std::string& name) {
    for (const auto& [key, value] : parts) {
        if (key == name) {
            return value;
        }
    }
    return 0;
}

// Adds the guest's speed during the snapshot and after it, relative to its speed before.
void add_guest(Parts& figures, double before, double during, double after, double total_us) {
    if (before <= 0) {
        return;
    }
    figures.emplace_back("guest_pages_per_s", before);
    figures.emplace_back("during_percent", during / before * 100);
    figures.emplace_back("after_percent", after / before * 100);
    figures.emplace_back("guest_lost_ms", (1 - during / before) * total_us / 1e3);
}

Sample floor_sample(const std::string& name, int run, const std::string& line) {
    const Parts raw = parse_parts(line, 1);
    Sample sample{kScenario, name, Side::floor, run, part(raw, "pause") / 1e3, {}, {}};
    const double total_us = part(raw, "total") / 1e3;
    for (const char* time : {"stop", "last", "first", "total"}) {
        sample.parts.emplace_back(time, part(raw, time) / 1e3);
    }
    sample.figures = {{"rounds", part(raw, "rounds")},
                      {"left_pages", part(raw, "left")},
                      {"copied_mib", part(raw, "copied") / (1 << 20)}};
    add_guest(sample.figures, part(raw, "before"), part(raw, "during"), part(raw, "after"), total_us);
    return sample;
}

Sample our_sample(const std::string& name, int run, const Json& report) {
    Sample sample{kScenario, name, Side::ours, run, report["pause_us"].get<double>(), {}, {}};
    const auto total_us = report["total_us"].get<double>();
    const Json& rounds = report["rounds"];
    if (!rounds.empty()) {
        sample.parts.emplace_back("first", rounds.front()["us"].get<double>());
    }
    sample.parts.emplace_back("total", total_us);
    sample.figures = {{"rounds", static_cast<double>(rounds.size())},
                      {"left_pages", rounds.empty() ? 0 : rounds.back()["dirty_pages"].get<double>()},
                      {"written_mib", report["written_bytes"].get<double>() / (1 << 20)},
                      {"staging_mib", report["staging_peak_bytes"].get<double>() / (1 << 20)},
                      {"diverged", report["diverged"].is_boolean() && !report["diverged"].get<bool>() ? 0.0 : 1.0}};
    const Json& guest = report["guest"];
    add_guest(sample.figures, guest["before"].get<double>(), guest["during"].get<double>(),
              guest["after"].get<double>(), total_us);
    return sample;
}

Status one_case(const Options& options, Report& report, const Case& one) {
    Json body = TRY(snapshot_body(options, one.mode, one.staging));
    std::string name = one.name();
    TRY(prepare_target(options, one.guest));
    Process floor = TRY(Process::start({options.raw_live(), LEDGER_ELF, "--mem", one.guest.memory, "--cpus",
                                        one.guest.cpus, "--cmdline", one.guest.cmdline, "--rate", options.floor_rate}));
    TRY(floor.wait_for("ready\n"));
    std::optional<Throttle> slow;  // outlives the process that is in the cgroup
    if (!options.target_rate.empty()) {
        slow.emplace(TRY(Throttle::on(options.area, TRY(parse_size(options.target_rate)))));
        body["cache"] = "direct";
        name += " disk=" + options.target_rate;
    }
    LiveProcess ours = TRY(LiveProcess::start(options.self, one.guest));
    if (slow) {
        TRY(slow->add(ours.pid()));
    }
    return interleaved(options, [&](Side side, int run) -> Status {
        if (side == Side::ours) {
            return report.add(our_sample(name, run, TRY(ours.snapshot(body))));
        }
        TRY(floor.send("\n"));
        return report.add(floor_sample(name, run, TRY(floor.line())));
    });
}

std::vector<Case> cases(const Options& options) {
    std::vector<Case> all = {{}};
    // Each list multiplies the cases.
    const auto vary = [&](const std::vector<std::string>& values, auto set) {
        std::vector<Case> more;
        for (const Case& one : all) {
            for (const std::string& value : values) {
                set(more.emplace_back(one), value);
            }
        }
        all = std::move(more);
    };
    vary(options.memory_or({"1G"}), [](Case& one, const std::string& value) { one.guest.memory = value; });
    vary(options.hot, [](Case& one, const std::string& value) { one.hot = value; });
    vary(options.rates, [](Case& one, const std::string& value) { one.rate = value; });
    vary(options.cpus, [](Case& one, const std::string& value) { one.guest.cpus = value; });
    vary(options.dirty, [](Case& one, const std::string& value) { one.guest.dirty = value; });
    vary(options.modes, [](Case& one, const std::string& value) { one.mode = value; });
    vary(options.staging, [](Case& one, const std::string& value) { one.staging = value; });
    for (Case& one : all) {
        one.guest.cmdline = "ws=4M stir=" + one.hot + " stirrate=" + one.rate;
    }
    return all;
}

}  // namespace

Status bench_pause(const Options& options, Report& report) {
    std::printf(
        "pause: threads: one a vCPU on both sides, and one that copies; ours also has what writes to the disk behind "
        "it\n");
    for (const Case& one : cases(options)) {
        if (TRY(parse_size(one.hot)) + kBesides > TRY(parse_size(one.guest.memory))) {
            std::fprintf(stderr, "pause: %s: left out: it does not fit the guest\n", one.name().c_str());
            continue;
        }
        TRY(one_case(options, report, one));
    }
    return {};
}

}  // namespace snapvm::bench
