// SPDX-License-Identifier: Apache-2.0
// linux: what a test on a Linux guest waits for. The image of `./dev linux` is booted once, and
// `snapvm snapshot` writes it and stops it. Each run is a process that restores it; the clock runs
// until its shell has answered.
//
// The question waits in the virtio console of the restored machine (on the process' stdin). The
// answer takes an interrupt, a wake-up of the shell, its arithmetic and its output, all by the
// guest's kernel, and comes through the pipe. There is no floor, because raw_restore has no virtio
// console.
#include <unistd.h>

#include "bench/process.h"
#include "bench/scenario.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kPrompt = "guest# ";
constexpr const char* kMemory = "128M";

Status make_snapshot(const Options& options, const std::string& image) {
    ::unlink(options.area.c_str());
    const std::string name = "bench-" + std::to_string(::getpid());
    Process guest = TRY(Process::start({options.snapvm, "run", "--name", name, "--kernel", image + "/vmlinux",
                                        "--initrd", image + "/initramfs.cpio", "--mem", kMemory, "--cmdline",
                                        "console=ttyS0 quiet", "--console", "stdio"}));
    TRY(guest.wait_for(kPrompt));
    TRY(run_to_end({options.snapvm, "snapshot", name, options.area, "--then", "stop"}));
    TRY(guest.wait_end());
    return {};
}

Result<double> time_to_answer(const Options& options) {
    Process process = TRY(Process::start({options.snapvm, "restore", options.area},
                                         {.input = "echo SUM $((6 * 7))\n", .stderr_too = false, .stamp = ""}));
    return process.us_until("SUM 42");
}

}  // namespace

Status bench_linux(const Options& options, Report& report) {
    const std::string image = SNAPVM_SOURCE_DIR "/build/linux";
    if (::access((image + "/vmlinux").c_str(), R_OK) != 0) {
        std::fprintf(stderr, "linux: left out: the image is not built (./dev linux)\n");
        return {};
    }
    TRY(make_snapshot(options, image));
    for (int run = -static_cast<int>(options.warm_up); run < static_cast<int>(options.runs); ++run) {
        TRY(report.add({"linux", kMemory, Side::ours, run, TRY(time_to_answer(options)), {}, {}}));
        std::this_thread::sleep_for(kSettle);
    }
    return {};
}

}  // namespace snapvm::bench
