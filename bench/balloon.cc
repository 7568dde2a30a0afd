// SPDX-License-Identifier: Apache-2.0
// balloon: how fast a guest's memory goes back to the host, compared with madvise of the same
// ranges of the same guest. Then the cost of a snapshot of a guest with much free memory, compared
// with the same guest without balloon and hints, which takes the floor's place although it is ours
// too.
//
// The clock of the first runs from just before the balloon's target is set until the guest has
// reported that it holds that much.
#include <cstdio>

#include "bench/co_process.h"
#include "bench/live_worker.h"
#include "bench/load_guest.h"
#include "bench/scenario.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

using Json = nlohmann::json;
constexpr const char* kScenario = "balloon";
/// What a driver gives back with one list of pages, as Linux does.
constexpr const char* kRange = "1M";

struct Size {
    const char* memory;
    const char* region;
};
constexpr Size kReturned = {"1280M", "1G"};
constexpr Size kFree = {"1G", "900M"};

Status returning(const Options& options, Report& report) {
    const std::uint64_t bytes = TRY(parse_size(kReturned.region));
    const std::string name = std::string("return ") + kReturned.region;
    Process floor = TRY(Process::start({options.raw_balloon(), LEDGER_ELF, "--mem", kReturned.memory, "--cmdline",
                                        load_command_line(kReturned.region)}));
    TRY(floor.wait_for("ready\n"));
    LoadProcess ours = TRY(
        LoadProcess::start(options.self, {.memory = kReturned.memory, .region = kReturned.region, .balloon = true}));
    const double gib = static_cast<double>(bytes) / (1 << 30);
    return interleaved(options, [&](Side side, int run) -> Status {
        if (side == Side::floor) {
            TRY(floor.send(std::string(kRange) + "\n"));
            const Parts all = parse_parts(TRY(floor.line()), 1e3);
            return report.add({kScenario,
                               name,
                               side,
                               run,
                               part_of(all, "ns"),
                               {},
                               {{"cpu_ms_a_gib", part_of(all, "cpu") / 1e3 / gib}}});
        }
        TRY(ours.run({.kind = ledger::LoadKind::dirty,
                      .seed = static_cast<std::uint64_t>(run + static_cast<int>(options.warm_up))}));
        const Parts all = TRY(ours.inflate(bytes));
        const Parts back = TRY(ours.inflate(0));
        return report.add({kScenario,
                           name,
                           side,
                           run,
                           part_of(all, "ns") / 1e3,
                           {{"deflate", part_of(back, "ns") / 1e3}},
                           {{"cpu_ms_a_gib", part_of(all, "cpu") / 1e6 / gib},
                            {"devices_cpu_ms_a_gib", part_of(all, "devices_cpu") / 1e6 / gib},
                            {"exits", part_of(all, "exits")},
                            {"our_exits", part_of(all, "our_exits")}}});
    });
}

Sample snapshot_sample(const std::string& name, Side side, int run, const Json& report) {
    Sample sample{kScenario, name, side, run, report["total_us"].get<double>(), {}, {}};
    sample.parts = {{"pause", report["pause_us"].get<double>()}};
    if (!report["rounds"].empty()) {
        sample.parts.emplace_back("first", report["rounds"][0]["us"].get<double>());
    }
    sample.figures = {{"written_mib", report["written_bytes"].get<double>() / (1 << 20)}};
    for (const char* kind : {"common", "free", "balloon"}) {
        sample.figures.emplace_back(std::string(kind) + "_pages", report["pages"][kind].get<double>());
    }
    return sample;
}

// `balloon` is as in LiveGuest.
Status snapshots(const Options& options, Report& report, const std::string& name, const std::string& balloon) {
    const Json body = TRY(snapshot_body(options, "live", ""));
    Json other = body;
    other["snapshot_path"] = options.area + ".whole";
    const std::string cmdline = load_command_line(kFree.region);
    LiveProcess whole = TRY(LiveProcess::start(options.self, {kFree.memory, "1", options.dirty.front(), cmdline, ""}));
    LiveProcess ours =
        TRY(LiveProcess::start(options.self, {kFree.memory, "1", options.dirty.front(), cmdline, balloon}));
    Status done = interleaved(options, [&](Side side, int run) -> Status {
        const bool floor = side == Side::floor;
        return report.add(snapshot_sample(name, side, run, TRY((floor ? whole : ours).snapshot(floor ? other : body))));
    });
    remove_target(options.area + ".whole");
    remove_target(options.area);
    return done;
}

}  // namespace

Status bench_balloon(const Options& options, Report& report) {
    TRY(returning(options, report));
    const std::string what = std::string("snapshot, ") + kFree.region + " of " + kFree.memory + " free, ";
    TRY(snapshots(options, report, what + "hinted", "0"));
    return snapshots(options, report, what + "in the balloon", kFree.region);
}

}  // namespace snapvm::bench
