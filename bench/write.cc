// SPDX-License-Identifier: Apache-2.0
// write: how fast a snapshot gets onto its target, and how little it writes, compared with
// sequential O_DIRECT writes onto the same file system or device (the better of pwrite and
// io_uring, run by run). From the second run on, areas and the floor's file are overwritten and not
// created anew.
#include <cstdio>

#include "bench/co_process.h"
#include "bench/live_worker.h"
#include "bench/scenario.h"
#include "snapshot/area/area_path.h"
#include "snapshot/format/layout.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

using Json = nlohmann::json;
constexpr const char* kScenario = "write";
constexpr std::uint64_t kAlign = 2ULL << 20;

struct Case {
    const char* name;
    const char* cmdline;
    /// What the clock covers on both sides: the first round without a flush, or the whole snapshot
    /// with one.
    enum class Clock : std::uint8_t { first_round, total } clock = Clock::total;
    /// What the floor writes.
    enum class Floor : std::uint8_t { same_bytes, touched, all } floor = Floor::same_bytes;
    const char* cache = nullptr;  ///< nullptr: the option `--cache` decides
    bool changes_only = false;  ///< tracked since an earlier snapshot
    const char* input = "";  ///< sent to the guest just before the snapshot
};
// All guests have 1 GiB of memory. An "idle" guest stays in HLT except for its ticks.
constexpr Case kCases[] = {
    {"first round, 960M", "ws=960M paused=1", Case::Clock::first_round, Case::Floor::same_bytes, "direct"},
    {"96M touched, idle", "ws=94M paused=1", Case::Clock::total, Case::Floor::touched},
    {"96M touched, idle, direct", "ws=94M paused=1", Case::Clock::total, Case::Floor::touched, "direct"},
    {"96M touched, 64M hot", "ws=30M stir=64M", Case::Clock::total, Case::Floor::touched},
    {"96M touched, 64M hot, direct", "ws=30M stir=64M", Case::Clock::total, Case::Floor::touched, "direct"},
    {"5% used, idle, floor all", "ws=49M paused=1", Case::Clock::total, Case::Floor::all},
    {"30M changed", "ws=600M rate=1 stir=30M", Case::Clock::total, Case::Floor::same_bytes, nullptr, true, "p"},
};
constexpr const char* kMemory = "1G";

struct FloorTarget {
    std::string path;
    std::uint64_t offset = 0;
};

// The floor writes to a file beside the area, or behind the area on the device.
Result<FloorTarget> floor_target(const Options& options, std::uint64_t memory) {
    const AreaPath area = TRY(AreaPath::parse(options.area));
    if (!is_device(options.area)) {
        return FloorTarget{area.path + ".raw", 0};
    }
    MachineConfig config;
    config.memory_bytes = memory;
    const std::uint64_t size = TRY(area_size(config, 1));
    return FloorTarget{area.path, (area.offset + size + kAlign - 1) / kAlign * kAlign};
}

double find(const Parts& parts, const std::string& name) {
    for (const auto& [key, value] : parts) {
        if (key == name) {
            return value;
        }
    }
    return 0;
}

// Returns the better time of the two ways.
double best(const Parts& times, const std::string& suffix) {
    const double pwrite = find(times, "pwrite" + suffix);
    const double uring = find(times, "uring" + suffix);
    return uring == 0 ? pwrite : std::min(pwrite, uring);
}

std::uint64_t floor_bytes(const Case& one, const Json& report, std::uint64_t memory) {
    switch (one.floor) {
        case Case::Floor::all: return memory;
        case Case::Floor::touched:
            return (report["pages"]["common"].get<std::uint64_t>() + report["pages"]["shared"].get<std::uint64_t>()) *
                   kPageSize;
        case Case::Floor::same_bytes: break;
    }
    return one.clock == Case::Clock::first_round ? report["rounds"][0]["written_bytes"].get<std::uint64_t>()
                                                 : report["written_bytes"].get<std::uint64_t>();
}

Sample our_sample(const Case& one, int run, const Json& report, std::uint64_t memory) {
    const auto written = report["written_bytes"].get<double>();
    const Json& first = report["rounds"][0];
    const auto us = (one.clock == Case::Clock::first_round ? first["us"] : report["total_us"]).get<double>();
    Sample sample{kScenario, one.name, Side::ours, run, us, {}, {}};
    sample.parts = {{"first", first["us"].get<double>()},
                    {"pause", report["pause_us"].get<double>()},
                    {"total", report["total_us"].get<double>()}};
    sample.figures = {{"written_mib", written / (1 << 20)},
                      {"written_percent_of_ram", written * 100 / static_cast<double>(memory)},
                      {"first_gb_per_s", first["written_bytes"].get<double>() / first["us"].get<double>() / 1e3},
                      {"rounds", static_cast<double>(report["rounds"].size())}};
    return sample;
}

Status one_case(const Options& options, Report& report, const Case& one) {
    const std::uint64_t memory = TRY(parse_size(kMemory));
    const LiveGuest guest{kMemory, "1", options.dirty.front(), one.cmdline};
    Json body = TRY(snapshot_body(options, options.modes.front(), options.staging.front()));
    if (one.cache != nullptr) {
        body["cache"] = one.cache;
    }
    TRY(prepare_target(options, guest));
    const FloorTarget target = TRY(floor_target(options, memory));
    Process floor = TRY(Process::start({options.raw_write(), target.path, std::to_string(target.offset)}));
    LiveProcess ours = TRY(LiveProcess::start(options.self, guest));
    if (one.changes_only) {
        body["track"] = true;
    }
    // The first snapshot tells how much the floor has to write.
    Json last = TRY(ours.snapshot(body));
    if (one.changes_only) {
        body["snapshot_type"] = "Diff";
        last = TRY(ours.snapshot(body, one.input));
    }
    return interleaved(options, [&](Side side, int run) -> Status {
        if (side == Side::ours) {
            last = TRY(ours.snapshot(body, one.input));
            return report.add(our_sample(one, run, last, memory));
        }
        const std::uint64_t bytes = floor_bytes(one, last, memory);
        TRY(floor.send(std::to_string(bytes) + "\n"));
        const Parts times = parse_parts(TRY(floor.line()), 1e3);
        const double us = best(times, one.clock == Case::Clock::first_round ? "" : "_sync");
        return report.add({kScenario,
                           one.name,
                           Side::floor,
                           run,
                           us,
                           times,
                           {{"written_mib", static_cast<double>(bytes) / (1 << 20)},
                            {"gb_per_s", static_cast<double>(bytes) / us / 1e3}}});
    });
}

}  // namespace

Status bench_write(const Options& options, Report& report) {
    for (const Case& one : kCases) {
        TRY(one_case(options, report, one));
    }
    if (!is_device(options.area)) {
        remove_target(TRY(floor_target(options, 0)).path);
    }
    return {};
}

}  // namespace snapvm::bench
