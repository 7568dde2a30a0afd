// SPDX-License-Identifier: Apache-2.0
// snapvm demo: the main job with the built-in guest: boot, snapshot, stop, restore, run on, verify
// every page.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "snapshot/report/verify.h"
#include "snapshot/restore/restore.h"
#include "snapshot/write/write_snapshot.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/output.h"
#include "vmm/control/guest_files.h"
#include "vmm/control/machine_service.h"

namespace snapvm::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct DemoOptions {
    std::string memory = "256M";
    std::uint32_t cpus = 1;
    std::string working_set = "64M";
    std::string area;
};

struct DemoResult {
    double boot_ms = 0;     ///< from the first KVM call to the guest's READY
    SnapshotReport snapshot;
    double restore_ms = 0;  ///< from opening the area to the restored guest's first instruction
    std::string before;     ///< the guest's report on its ledger
    std::string after;
    VerifyReport verified;
    std::string area;
};

constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kRunFor = std::chrono::milliseconds(300);

double millis(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

// The name of the file that the demo writes. The file is removed, unless the user named it.
class AreaFileName {
public:
    static Result<AreaFileName> choose(const std::string& wanted) {
        if (!wanted.empty()) {
            return AreaFileName(wanted, false);
        }
        const std::string folder = std::filesystem::temp_directory_path().string();
        return AreaFileName(folder + "/snapvm-demo-" + std::to_string(::getpid()), true);
    }
    AreaFileName(AreaFileName&& other) noexcept
        : path_(std::move(other.path_)), remove_(std::exchange(other.remove_, false)) {}
    AreaFileName& operator=(AreaFileName&&) = delete;
    ~AreaFileName() {
        if (remove_) {
            ::unlink(path_.c_str());
        }
    }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    AreaFileName(std::string path, bool remove) : path_(std::move(path)), remove_(remove) {}
    std::string path_;
    bool remove_;
};

// Makes the guest verify its whole ledger. Returns its one line of answer.
Result<std::string> ask_ledger(MachineService& service) {
    const std::uint8_t command = 'v';
    service.send_input(std::span(&command, 1), Clock::now() + kPatience);
    const auto answer = TRY(service.wait(
        {.what = WaitFor::serial, .regex = "^LEDGER (OK|BAD).*", .timeout = std::chrono::milliseconds(kPatience)}, {}));
    if (!answer || answer->line.find("LEDGER OK") == std::string::npos) {
        return fail(ErrorKind::invalid, "the guest's memory is not as it was: " +
                                            (answer ? answer->line : "the ledger guest did not answer"));
    }
    return answer->line;
}

Result<std::unique_ptr<Machine>> boot(const kvm::System& system, const DemoOptions& options, DemoResult& result) {
    MachineConfig config;
    config.memory_bytes = TRY(parse_memory_size(options.memory));
    config.cpus = options.cpus;
    config.kernel = "builtin:ledger";
    config.cmdline = "ws=" + options.working_set + " zero=10";
    config.machine_id = TRY(Uuid::random());
    const GuestFiles files = TRY(GuestFiles::open(config));
    const Clock::time_point began = Clock::now();
    std::unique_ptr<Machine> machine = TRY(Machine::create(system, config, files.source()));
    TRY(machine->resume());
    if (!machine->wait_ready(began + kPatience)) {
        const auto outcome = machine->wait_ended(Clock::now());
        return fail(outcome && outcome->error ? *outcome->error
                                              : Error(ErrorKind::invalid, "the guest did not say READY"));
    }
    result.boot_ms = millis(Clock::now() - began);
    return machine;
}

Result<DemoResult> demo(const DemoOptions& options) {
    DemoResult result;
    const kvm::System system = TRY(kvm::System::open());
    const AreaFileName file = TRY(AreaFileName::choose(options.area));
    const AreaPath area = TRY(AreaPath::parse(options.area.empty() ? file.path() + "@0" : file.path()));
    result.area = area.text();
    {
        const std::unique_ptr<Machine> machine = TRY(boot(system, options, result));
        std::this_thread::sleep_for(kRunFor);
        MachineService service(*machine, "demo");
        SnapshotRequest request;
        request.area = area;
        result.snapshot = TRY(service.snapshot(request));
        result.before = TRY(ask_ledger(service));
    }
    const Clock::time_point began = Clock::now();
    RestoredSnapshot restored = TRY(open_snapshot(area));
    const std::unique_ptr<Machine> machine = TRY(Machine::restore(system, restored.saved, std::move(restored.memory)));
    TRY(machine->resume());
    const auto first = machine->wait_first_run(began + kPatience);
    if (!first) {
        return fail(ErrorKind::invalid, "the restored guest does not run");
    }
    result.restore_ms = millis(*first - began);
    std::this_thread::sleep_for(kRunFor);
    MachineService service(*machine, "demo");
    result.after = TRY(ask_ledger(service));
    result.verified = TRY(verify_area(area));
    if (result.verified.fault_count != 0) {
        return fail(ErrorKind::invalid, "the snapshot has faults: " + result.verified.faults.front());
    }
    return result;
}

std::string classes_text(const SnapshotReport& report) {
    std::string text;
    for (std::size_t i = 0; i < kPageClassCount; ++i) {
        if (report.pages[i] != 0) {
            text.append(text.empty() ? "" : ", ").append(std::to_string(report.pages[i])).append(" ");
            text.append(name_of(static_cast<PageClass>(i)));
        }
    }
    return text;
}

void print_table(const DemoOptions& options, const DemoResult& result) {
    const auto row = [](const char* what, const std::string& value, const char* meaning) {
        print(stdout, "  %-18s %14s   %s\n", what, value.c_str(), meaning);
    };
    const auto ms = [](double value) {
        std::array<char, 32> text;
        std::snprintf(text.data(), text.size(), "%.1f ms", value);
        return std::string(text.data());
    };
    print(stdout, "The ledger guest, %s of memory, %s, working set %s:\n\n", options.memory.c_str(),
          count_text(options.cpus, "vCPU").c_str(), options.working_set.c_str());
    row("boot", ms(result.boot_ms), "until the guest has written its working set and says READY");
    row("snapshot", ms(static_cast<double>(result.snapshot.total_us) / 1000), "all of it, flushed to the disk");
    row("  of that, pause", ms(static_cast<double>(result.snapshot.pause_us) / 1000), "the guest stood still");
    row("  written", size_text(result.snapshot.written_bytes >> 10 << 10), "data, page entries and state");
    row("restore", ms(result.restore_ms), "until the restored guest has executed an instruction");
    print(stdout, "\n  pages: %s\n", classes_text(result.snapshot).c_str());
    print(stdout, "  the guest, before:   %s\n", result.before.c_str());
    print(stdout, "  the guest, restored: %s\n", result.after.c_str());
    print(stdout, "  the snapshot:        %llu pages and all sections match their checksums\n",
          static_cast<unsigned long long>(result.verified.pages));
}

void print_json(const DemoResult& result) {
    nlohmann::ordered_json pages;
    for (std::size_t i = 0; i < kPageClassCount; ++i) {
        pages[std::string(name_of(static_cast<PageClass>(i)))] = result.snapshot.pages[i];
    }
    print_line(json_text(nlohmann::ordered_json{{"boot_us", static_cast<std::uint64_t>(result.boot_ms * 1000)},
                                                {"snapshot_us", result.snapshot.total_us},
                                                {"pause_us", result.snapshot.pause_us},
                                                {"written_bytes", result.snapshot.written_bytes},
                                                {"restore_us", static_cast<std::uint64_t>(result.restore_ms * 1000)},
                                                {"pages", pages},
                                                {"ledger_before", result.before},
                                                {"ledger_after", result.after},
                                                {"verified_pages", result.verified.pages}}));
}

}  // namespace

void add_demo(Command program, Globals& globals) {
    auto options = std::make_shared<DemoOptions>();
    Command command =
        program.subcommand("demo", "boot, snapshot, restore and verify the built-in guest, and show how long it took");
    command.example("snapvm demo --mem 1G");
    command.option("--mem SIZE", options->memory, "guest memory (default: 256M)");
    command.option("--cpus N", options->cpus, "vCPUs (default: 1)");
    command.option("--ws SIZE", options->working_set, "the guest's working set (default: 64M)");
    command.option("--area PATH", options->area, "snapshot area to use and keep (default: a temporary file)");
    command.action([=, &globals]() -> Result<int> {
        const DemoResult result = TRY(demo(*options));
        globals.json ? print_json(result) : print_table(*options, result);
        return 0;
    });
}

}  // namespace snapvm::cli
