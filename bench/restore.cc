// SPDX-License-Identifier: Apache-2.0
// restore: from a snapshot in the page cache to the guest's first instruction, for guests of
// several sizes that use their memory sparsely.
//
// In-process cases have /dev/kvm open; the clock runs from opening the area to the return of the
// first KVM_RUN that the guest ended. In process cases the clock runs from just before posix_spawn
// until the first byte that the guest writes to its serial port has come through a pipe. Every
// instruction of the guest but jumps is such a write (sparse_guest.cc).
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "bench/co_process.h"
#include "bench/floor_state.h"
#include "bench/process.h"
#include "bench/scenario.h"
#include "bench/sparse_guest.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "restore";

Status in_process(const Options& options, Report& report, const std::string& name, const std::string& state) {
    Process floor = TRY(Process::start({options.raw_restore(), state, options.area, "--serve"}));
    Process ours = TRY(Process::start({options.self, "--worker", "restore", options.area}));
    return interleaved(options, [&](Side side, int run) -> Status {
        Process& process = side == Side::floor ? floor : ours;
        TRY(process.send("\n"));
        Parts parts = parse_parts(TRY(process.line()), 1e3);
        if (parts.empty() || parts.front().first != "total") {
            return fail(ErrorKind::invalid, "a worker's line is malformed");
        }
        const double total = parts.front().second;
        parts.erase(parts.begin());
        std::erase_if(parts,
                      [](const auto& part) { return part.second < 5 && part.first.find('(') != std::string::npos; });
        return report.add({kScenario, name, side, run, total, std::move(parts), {}});
    });
}

Status as_process(const Options& options, Report& report, const std::string& name, const std::string& state) {
    return interleaved(options, [&](Side side, int run) -> Status {
        Process process = TRY(side == Side::floor ? Process::start({options.raw_restore(), state, options.area})
                                                  : Process::start({options.snapvm, "restore", options.area}));
        return report.add({kScenario, name, side, run, TRY(process.us_until(".")), {}, {}});
    });
}

// Prints the time outside KVM_SET_USER_MEMORY_REGION over the sizes. It must not grow with the
// size.
void print_spread(const Options& options, const Report& report) {
    for (const Side side : {Side::floor, Side::ours}) {
        double least = 0;
        double most = 0;
        for (const std::string& memory : options.memory_or({"256M", "1G", "4G"})) {
            const double rest = report.p50(kScenario, memory + " in-process", side, "rest");
            least = least == 0 ? rest : std::min(least, rest);
            most = std::max(most, rest);
        }
        std::printf(
            "restore, outside KVM_SET_USER_MEMORY_REGION, %s: %.2f to %.2f ms over the sizes, %.2f times (target "
            "1.3)\n",
            std::string(name_of(side)).c_str(), least / 1e3, most / 1e3, least == 0 ? 0 : most / least);
    }
}

}  // namespace

Status bench_restore(const Options& options, Report& report) {
    const std::string state = options.area + ".state";
    const AreaPath area = TRY(AreaPath::parse(options.area));
    const bool with_cli = ::access(options.snapvm.c_str(), X_OK) == 0;
    for (const std::string& memory : options.memory_or({"256M", "1G", "4G"})) {
        TRY(snapshot_sparse_guest(TRY(parse_size(memory)), area));
        TRY(write_floor_state(area, state));
        TRY(in_process(options, report, memory + " in-process", state));
        if (with_cli) {
            TRY(as_process(options, report, memory + " process", state));
        }
    }
    ::unlink(state.c_str());
    print_spread(options, report);
    return {};
}

}  // namespace snapvm::bench
