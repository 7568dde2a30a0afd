// SPDX-License-Identifier: Apache-2.0
// boot: from the start of the process to READY of a guest that writes its working set.
//
// Both sides boot the same ELF with the same command line on anonymous memory with huge pages
// advised. For both, the clock starts just before posix_spawn and stops when the guest's line
// "LEDGER READY" has come through a pipe from its serial port. So the time is seen from outside,
// and ends long after the guest's first instruction.
#include <chrono>

#include "bench/co_process.h"
#include "bench/process.h"
#include "bench/scenario.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kMemory = "256M";
constexpr unsigned kPartRuns = 5;

Result<double> time_to_ready(const std::vector<std::string>& command) {
    Process process = TRY(Process::start(command));
    return process.us_until("LEDGER READY");
}

// Measures the parts in separate runs: raw_boot's stamps, and the library calls that `snapvm run`
// makes, made by this program.
Status watch_parts(const Options& options, Report& report, const std::string& name, const std::string& cmdline) {
    std::vector<Parts> floor;
    std::vector<Parts> ours;
    for (unsigned i = 0; i < std::min(options.runs, kPartRuns); ++i) {
        Process raw = TRY(Process::start(
            {options.raw_boot(), LEDGER_ELF, "--mem", kMemory, "--cmdline", cmdline, "--times", "--until-ready"},
            {.input = "", .stderr_too = true, .stamp = "RAW_BOOT_T0"}));
        floor.push_back(steps_of(parse_parts(TRY(raw.line()), 1)));
        Process library = TRY(Process::start({options.self, "--worker", "boot", kMemory, cmdline},
                                             {.input = "", .stderr_too = false, .stamp = "RAW_BOOT_T0"}));
        Parts parts = steps_of(parse_parts(TRY(library.line()), 1e3));
        for (const auto& call : parse_parts(TRY(library.line()), 1e3)) {
            if (call.second >= 10) {
                parts.push_back(call);
            }
        }
        ours.push_back(std::move(parts));
    }
    TRY(report.add_parts("boot", name, Side::floor, floor));
    return report.add_parts("boot", name, Side::ours, ours);
}

}  // namespace

Status bench_boot(const Options& options, Report& report) {
    for (const std::string& working_set : options.working_sets) {
        const std::string name = "ws=" + working_set;
        const std::string cmdline = "ws=" + working_set;
        const std::vector<std::string> floor = {options.raw_boot(), LEDGER_ELF, "--mem", kMemory, "--cmdline", cmdline};
        const std::vector<std::string> ours = {options.snapvm, "run",   "--kernel",  "builtin:ledger",
                                               "--mem",        kMemory, "--cmdline", cmdline};
        TRY(interleaved(options, [&](Side side, int run) -> Status {
            const double us = TRY(time_to_ready(side == Side::floor ? floor : ours));
            return report.add({"boot", name, side, run, us, {}, {}});
        }));
        TRY(watch_parts(options, report, name, cmdline));
    }
    return {};
}

}  // namespace snapvm::bench
