// SPDX-License-Identifier: Apache-2.0
// trackers: KVM's dirty log and dirty ring under the same VMM and the same guest. It measures how
// long a harvest takes, 100 ms after the one before, and what the guest loses by being tracked.
// Both are ours and take turns; there is no floor.
#include <array>
#include <cstdio>

#include "bench/co_process.h"
#include "bench/process.h"
#include "bench/scenario.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "trackers";
constexpr std::array kTrackers = {"log", "ring"};
/// Pages a second; 0: full speed.
constexpr std::array kRates = {25'600U, 51'200U, 0U};

std::string rate_text(unsigned rate) { return rate == 0 ? "full speed" : std::to_string(rate) + "/s"; }

Sample sample_of(const std::string& name, int run, std::uint64_t memory, unsigned rate, const std::string& line) {
    Parts all = parse_parts(line, 1);
    Sample sample{kScenario, name, Side::ours, run, all.front().second, {}, {}};
    double before = 0;
    sample.figures = {{"memory_mib", static_cast<double>(memory >> 20)}, {"wanted_pages_per_s", rate}};
    for (const auto& [key, value] : all) {
        if (key == "harvest" || key == "start" || key == "stop") {
            sample.parts.emplace_back(key, value);
            continue;
        }
        sample.figures.emplace_back(key, value);
        if (key == "before") {
            before = value;
        } else if (key == "during" && before > 0) {
            sample.figures.emplace_back("during_percent", value / before * 100);
        }
    }
    return sample;
}

Status one_case(const Options& options, Report& report, const std::string& memory, unsigned rate) {
    const std::uint64_t bytes = TRY(parse_size(memory));
    // Five eighths of 4 GiB fit below the hole in one piece.
    const std::string cmdline = "ws=1M stir=" + std::to_string((bytes / 8 * 5) >> 20) + "M" +
                                (rate == 0 ? "" : " stirrate=" + std::to_string(rate));
    std::vector<Process> processes;
    for (const char* tracker : kTrackers) {
        processes.push_back(TRY(Process::start({options.self, "--worker", "trackers", memory, "1", tracker, cmdline})));
        TRY(processes.back().wait_for("ready\n"));
    }
    for (int run = -static_cast<int>(options.warm_up); run < static_cast<int>(options.runs); ++run) {
        for (std::size_t turn = 0; turn < kTrackers.size(); ++turn) {
            const std::size_t which = (turn + (run % 2 == 0 ? 0 : 1)) % kTrackers.size();
            TRY(processes[which].send("\n"));
            const std::string name = memory + " " + rate_text(rate) + " " + kTrackers[which];
            TRY(report.add(sample_of(name, run, bytes, rate, TRY(processes[which].line()))));
        }
    }
    return {};
}

}  // namespace

Status bench_trackers(const Options& options, Report& report) {
    for (const std::string& memory : options.memory_or({"256M", "1G", "4G"})) {
        for (const unsigned rate : kRates) {
            TRY(one_case(options, report, memory, rate));
        }
    }
    return {};
}

}  // namespace snapvm::bench
