// SPDX-License-Identifier: Apache-2.0
// restore-after-snapshot: a ledger guest runs, `snapvm snapshot` writes it and stops it, and at
// once a process is started that restores it. The clock runs from that start to the guest's next
// output.
//
// A byte waits in the serial port of the restored machine (for ours, on the process' stdin). The
// guest takes the interrupt, reads the byte and answers with one; the clock stops when the answer
// has come through the pipe. Each run has a snapshot of its own. The floor reads the same area;
// which side comes first after the snapshot changes from run to run. In "cold" cases the area and
// the floor's state are dropped from the page cache first; the programs are not.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "bench/floor_state.h"
#include "bench/process.h"
#include "bench/scenario.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "restore-after-snapshot";
constexpr const char* kCommandLine = "ws=64M";

// Runs a guest, writes its snapshot, and waits until the guest's process has ended.
Status make_snapshot(const Options& options) {
    ::unlink(options.area.c_str());
    const std::string name = "bench-" + std::to_string(::getpid());
    Process guest = TRY(Process::start({options.snapvm, "run", "--name", name, "--kernel", "builtin:ledger", "--mem",
                                        "256M", "--cmdline", kCommandLine}));
    // The ledger sets up serial input after READY. It works once a command has been answered.
    TRY(guest.wait_for("LEDGER READY\n"));
    TRY(guest.send("b"));
    TRY(guest.wait_for("."));
    TRY(run_to_end({options.snapvm, "snapshot", name, options.area, "--then", "stop"}));
    TRY(guest.wait_end());
    return {};
}

Status drop_cache(const std::string& path) {
    const UniqueFd file = TRY(open_file(path, O_RDONLY));
    // Only clean pages can be dropped. A complete snapshot is flushed already; this makes sure of
    // it.
    if (::fsync(file.get()) != 0) {
        return fail(Error::system("fsync", path, errno));
    }
    if (const int error = ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED); error != 0) {
        return fail(Error::system("posix_fadvise", path, error));
    }
    return {};
}

Result<double> time_to_answer(const std::vector<std::string>& command, const std::string& input) {
    Process process = TRY(Process::start(command, {.input = input, .stderr_too = false, .stamp = ""}));
    return process.us_until(".");
}

Status one_case(const Options& options, Report& report, bool cold) {
    const std::string name = std::string(kCommandLine) + (cold ? " cold" : "");
    const std::string state = options.area + ".state";
    const AreaPath area = TRY(AreaPath::parse(options.area));
    int prepared = -1'000'000;
    const Status done = interleaved(options, [&](Side side, int run) -> Status {
        if (prepared != run) {
            prepared = run;
            TRY(make_snapshot(options));
        }
        if (side == Side::floor) {
            TRY(write_floor_state(area, state));
        }
        if (cold) {
            TRY(drop_cache(options.area));
            if (side == Side::floor) {
                TRY(drop_cache(state));  // ours reads its state from the area, so it reads from the disk too
            }
        }
        const double us =
            TRY(side == Side::floor ? time_to_answer({options.raw_restore(), state, options.area, "--input", "b"}, "")
                                    : time_to_answer({options.snapvm, "restore", options.area}, "b"));
        return report.add({kScenario, name, side, run, us, {}, {}});
    });
    ::unlink(state.c_str());
    return done;
}

}  // namespace

Status bench_after_snapshot(const Options& options, Report& report) {
    TRY(one_case(options, report, false));
    return one_case(options, report, true);
}

}  // namespace snapvm::bench
