// SPDX-License-Identifier: Apache-2.0
// snapvm-bench measures scenarios and compares ours with the floor.
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <ctime>
#include <string_view>

#include "bench/co_process.h"
#include "bench/scenario.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

struct Scenario {
    std::string_view name;
    std::string_view measures;
    Status (*run)(const Options&, Report&);
};
constexpr std::array kScenarios = {
    Scenario{"boot", "from process start to READY of a guest that writes its working set", bench_boot},
    Scenario{"restore", "from a snapshot of a sparsely used guest to its first instruction", bench_restore},
    Scenario{"pause", "how long a live snapshot stops a guest that writes all it can, and slows it down", bench_pause},
    Scenario{"write", "how fast a snapshot gets onto its target, and how little it writes", bench_write},
    Scenario{"scan", "what a look at each page costs", bench_scan},
    Scenario{"trackers", "dirty log and dirty ring: harvests, and what a guest loses by being tracked", bench_trackers},
    Scenario{"blk", "a guest's disk: throughput, exits and processor time a request", bench_disk},
    Scenario{"images", "disk images without a guest: beside raw files, and beside qemu-img", bench_images},
    Scenario{"balloon", "how fast memory goes back to the host, and what a snapshot of free memory takes",
             bench_balloon},
    Scenario{"net", "a guest's frames into a tap: throughput and exits a frame", bench_net},
    Scenario{"vsock", "a guest's stream to a unix socket: throughput and round trip", bench_stream},
    Scenario{"linux", "from process start to the answer of a Linux guest's shell, restored", bench_linux},
    Scenario{"restore-after-snapshot", "from process start to the next output, right after the snapshot",
             bench_after_snapshot},
};

constexpr int kExitUsage = 2;
constexpr int kExitSkipped = 77;  // ctest's SKIP_RETURN_CODE: this host had nothing to measure

std::string own_path() {
    std::array<char, 4096> path;
    const ssize_t size = ::readlink("/proc/self/exe", path.data(), path.size());
    return size > 0 ? std::string(path.data(), static_cast<std::size_t>(size)) : "snapvm-bench";
}

std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

std::string default_results(const std::string& folder) {
    ::mkdir((folder + "/results").c_str(), 0777);
    std::array<char, 32> stamp;
    const std::time_t now = std::time(nullptr);
    std::strftime(stamp.data(), stamp.size(), "%Y%m%d-%H%M%S", std::gmtime(&now));
    return folder + "/results/" + stamp.data() + ".jsonl";
}

int list_scenarios(const std::string& wrong) {
    std::fprintf(stderr, "snapvm-bench: there is no scenario %s; give one of:\n", wrong.c_str());
    for (const Scenario& scenario : kScenarios) {
        std::fprintf(stderr, "  %-24s %s\n", std::string(scenario.name).c_str(),
                     std::string(scenario.measures).c_str());
    }
    return kExitUsage;
}

// Returns the exit code.
Result<int> run_scenarios(const std::vector<std::string>& names, const Options& options, const std::string& out) {
    Report report = TRY(Report::open(out, HostFacts::gather(SNAPVM_SOURCE_DIR, options.snapvm)));
    for (const Scenario& scenario : kScenarios) {
        if (names.empty() || std::ranges::find(names, scenario.name) != names.end()) {
            std::fprintf(stderr, "%s …\n", std::string(scenario.name).c_str());
            TRY(scenario.run(options, report));
        }
    }
    remove_target(options.area);
    if (report.empty()) {
        return kExitSkipped;  // each scenario has printed why it was left out
    }
    std::printf("\n");
    report.print_table();
    std::printf("\nparts:\n");
    report.print_parts();
    report.print_figures();
    std::printf(
        "\n%u cores, nothing pinned; floor and ours in turn, %u pairs after %u to warm up; percentiles by nearest "
        "rank\nsamples: "
        "%s\n",
        std::thread::hardware_concurrency(), options.runs, options.warm_up, out.c_str());
    return 0;
}

int measure(int argc, char** argv) {
    Options options;
    options.self = own_path();
    options.programs = folder_of(options.self);
    options.snapvm = folder_of(options.programs) + "/snapvm";
    options.area = options.programs + "/bench.area";
    std::string out;
    std::vector<std::string> names;
    CLI::App app("Measures snapvm beside its floors", "snapvm-bench");
    app.add_option("scenarios", names, "the scenarios to run (default: all)");
    app.add_option("--runs", options.runs, "measured pairs a case")->check(CLI::Range(1U, 100'000U));
    app.add_option("--warm-up", options.warm_up, "pairs before them")->check(CLI::Range(0U, 1000U));
    app.add_option("--mem", options.memory, "guest sizes")->delimiter(',');
    app.add_option("--ws", options.working_sets, "working sets for boot")->delimiter(',');
    app.add_option("--hot", options.hot, "memory that the guest writes over and over")->delimiter(',');
    app.add_option("--rate", options.rates, "pages a second that each vCPU writes; 0: all it can")->delimiter(',');
    app.add_option("--cpus", options.cpus, "vCPUs")->delimiter(',');
    app.add_option("--dirty", options.dirty, "log, ring")->delimiter(',');
    app.add_option("--mode", options.modes, "live, precopy, stop")->delimiter(',');
    app.add_option("--staging", options.staging, "staging memory, in bytes")->delimiter(',');
    app.add_option("--when-diverging", options.when_diverging, "as snapvm snapshot has it");
    app.add_option("--max-pause", options.max_pause, "as snapvm snapshot has it");
    app.add_option("--cache", options.cache, "as snapvm snapshot has it");
    app.add_option("--target-rate", options.target_rate,
                   "slow the target's disk down for ours to this rate, in bytes a second; needs root");
    app.add_option("--floor-rate", options.floor_rate,
                   "bytes a second of the floor's first round, as a disk would hold it");
    app.add_option("--out", out, "file for the samples, JSON lines (default: results/ beside this program)");
    app.add_option(
        "--area,--target", options.area,
        "file for the snapshots, which is overwritten; pause and write take a device, as PATH@OFFSET, and write also "
        "overwrites what is behind the area on it");
    app.add_option("--images", options.images,
                   "folder for the disk images of images; in memory (/dev/shm) only the processor counts");
    app.add_option("--snapvm", options.snapvm, "the program to measure");
    try {
        app.parse(argc, argv);
        for (const auto& list : {options.memory,
                                 options.working_sets,
                                 options.hot,
                                 options.rates,
                                 options.staging,
                                 {options.floor_rate, options.target_rate}}) {
            for (const std::string& size : list) {
                if (!size.empty() && !parse_size(size)) {
                    throw CLI::ValidationError("\"" + size + "\" is not a size");
                }
            }
        }
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : kExitUsage;
    }
    for (const std::string& name : names) {
        if (std::ranges::find(kScenarios, name, &Scenario::name) == kScenarios.end()) {
            return list_scenarios(name);
        }
    }
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
        std::fprintf(stderr, "snapvm-bench: there is no usable /dev/kvm, so nothing is measured; see snapvm doctor\n");
        return kExitSkipped;
    }
    const Result<int> code = run_scenarios(names, options, out.empty() ? default_results(options.programs) : out);
    if (!code) {
        std::fprintf(stderr, "snapvm-bench: %s\n", code.error().message().c_str());
        return 1;
    }
    return *code;
}

}  // namespace
}  // namespace snapvm::bench

int main(int argc, char** argv) {
    using namespace snapvm::bench;
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (arguments.size() < 2 || arguments[0] != "--worker") {
        return measure(argc, argv);
    }
    const snapvm::Result<int> code = run_worker(std::span(arguments).subspan(1));
    if (!code) {
        std::fprintf(stderr, "snapvm-bench: %s\n", code.error().message().c_str());
        return 1;
    }
    return *code;
}
