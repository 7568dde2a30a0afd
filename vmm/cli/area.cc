// SPDX-License-Identifier: Apache-2.0
// Commands on snapshot areas: area create, size, inspect, verify. They do not need KVM.
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "snapshot/area/area.h"
#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/machine_query.h"
#include "vmm/cli/output.h"
#include "vmm/host/run_dir.h"

namespace snapvm::cli {
namespace {

struct ShapeOptions {
    std::string memory;
    std::uint32_t cpus = 1;
    std::uint32_t slots = 1;

    void add_to(Command command) {
        command.option("--mem SIZE", memory, "guest memory, a multiple of 2M");
        command.option("--cpus N", cpus, "vCPUs (default: 1)");
        command.option("--slots N", slots, 1, 2,
                       "1, or 2 to keep the previous snapshot while the next is written (default: 1)");
    }
    [[nodiscard]] Result<MachineConfig> config() const {
        if (memory.empty()) {
            return fail(ErrorKind::usage, "--mem is missing", "give the machine's memory, such as --mem 4G");
        }
        MachineConfig config;
        config.memory_bytes = TRY(parse_memory_size(memory));
        config.cpus = cpus;
        TRY(config.validate());
        return config;
    }
};

struct CreateCommand {
    std::string area;
    std::string machine;
    ShapeOptions shape;
    bool force = false;
};

// Returns a function that rewrites one line on stderr if that is a terminal; otherwise returns an
// empty one.
Progress progress_on_terminal(const char* what) {
    if (::isatty(STDERR_FILENO) == 0) {
        return {};
    }
    return [what](std::uint64_t done, std::uint64_t total) {
        show_progress(std::string(what) + ": " + std::to_string(total == 0 ? 100 : done * 100 / total) + " %");
        if (done == total) {
            print(stderr, "\n");
        }
    };
}

std::string name_of(int pid, const Globals& globals) {
    const auto dir = RunDir::find(globals.run_dir);
    return dir ? dir->machine_of(pid) : std::string();
}

Result<int> create(const CreateCommand& options, const Globals& globals) {
    const AreaPath area = TRY(AreaPath::parse(options.area));
    MachineConfig config;
    if (options.machine.empty()) {
        config = TRY(options.shape.config());
    } else {
        config = TRY(query_config(globals, options.machine));
    }
    const AreaShape shape{.blocks = config.blocks(), .cpus = config.cpus};
    const std::uint64_t size = TRY(create_area(area, shape,
                                               {.slots = options.shape.slots,
                                                .force = options.force,
                                                .names = [&](int pid) { return name_of(pid, globals); },
                                                .progress = progress_on_terminal("zeroing")}));
    if (globals.json) {
        print_line(json_text(
            nlohmann::ordered_json{{"area", area.text()}, {"area_bytes", size}, {"slots", options.shape.slots}}));
    } else {
        print(stdout, "%s: %llu bytes, %s\n", area.text().c_str(), static_cast<unsigned long long>(size),
              count_text(options.shape.slots, "slot").c_str());
    }
    return 0;
}

Result<int> size(const ShapeOptions& options, const Globals& globals) {
    const std::uint64_t bytes = TRY(area_size(TRY(options.config()), options.slots));
    if (globals.json) {
        print_line(json_text(nlohmann::ordered_json{{"area_bytes", bytes}}));
    } else {
        print(stdout, "%llu\n", static_cast<unsigned long long>(bytes));
    }
    return 0;
}

Result<int> inspect(const std::string& text, const Globals& globals) {
    const AreaInfo info = TRY(inspect_area(TRY(AreaPath::parse(text))));
    print(stdout, "%s\n", globals.json ? to_json(info).c_str() : to_text(info).c_str());
    return info.problem.empty() ? 0 : kExitFailure;
}

Result<int> verify(const std::string& text, const Globals& globals) {
    const AreaPath area = TRY(AreaPath::parse(text));
    const VerifyReport report = TRY(verify_area(area, progress_on_terminal("verifying")));
    if (globals.json) {
        print_line(json_text(nlohmann::ordered_json{{"area", area.text()},
                                                    {"ok", report.fault_count == 0},
                                                    {"snapshots", report.snapshots},
                                                    {"sections", report.sections},
                                                    {"pages", report.pages},
                                                    {"fault_count", report.fault_count},
                                                    {"faults", report.faults}}));
        return report.fault_count == 0 ? 0 : kExitFailure;
    }
    for (const std::string& fault : report.faults) {
        print_line(fault);
    }
    if (report.fault_count != 0) {
        return fail(ErrorKind::invalid, area.text() + " has " + count_text(report.fault_count, "fault"),
                    "do not restore it; take the snapshot again");
    }
    print(stdout, "%s: good, %s in %s\n", area.text().c_str(), count_text(report.pages, "page").c_str(),
          count_text(report.snapshots, "snapshot").c_str());
    return 0;
}

// Declares inspect or verify, which take one area and nothing else.
void add_reader(Command program, const char* name, const char* what, Globals& globals,
                Result<int> (*action)(const std::string&, const Globals&)) {
    auto area = std::make_shared<std::string>();
    Command command = program.subcommand(name, what);
    command.example(std::string("snapvm ") + name + " vm.snap");
    command.required("AREA", *area, "snapshot area, PATH[@OFFSET]");
    command.action([=, &globals] { return action(*area, globals); });
}

}  // namespace

void add_area(Command program, Globals& globals) {
    auto options = std::make_shared<CreateCommand>();
    Command area = program.group("area", "prepare a file or block device for snapshots");
    Command command = area.subcommand("create", "make a file or block device a snapshot area");
    command.example("snapvm area create /dev/nvme0n1p4 --mem 4G --cpus 2");
    command.required("PATH", options->area, "PATH[@OFFSET]");
    command.option("--for NAME", options->machine, "the running machine that the area is for");
    options->shape.add_to(command);
    command.flag("--force", options->force, "overwrite a file system, an area or other data");
    command.action([=, &globals] { return create(*options, globals); });
}

void add_size(Command program, Globals& globals) {
    auto options = std::make_shared<ShapeOptions>();
    Command command = program.subcommand("size", "print how many bytes a snapshot area takes");
    command.example("snapvm size --mem 4G --cpus 2");
    options->add_to(command);
    command.action([=, &globals] { return size(*options, globals); });
}

void add_inspect(Command program, Globals& globals) {
    add_reader(std::move(program), "inspect", "show what a snapshot area holds", globals, inspect);
}

void add_verify(Command program, Globals& globals) {
    add_reader(std::move(program), "verify", "check every checksum in a snapshot area", globals, verify);
}

}  // namespace snapvm::cli
