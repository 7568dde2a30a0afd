// SPDX-License-Identifier: Apache-2.0
// snapvm restore: starts machines from a snapshot.
#include <memory>
#include <optional>
#include <utility>

#include "snapshot/restore/restore.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/device_options.h"
#include "vmm/cli/launch.h"
#include "vmm/cli/output.h"
#include "vmm/control/restore_machine.h"

namespace snapvm::cli {
namespace {

struct RestoreCommand {
    std::string area;
    unsigned count = 1;
    bool paused = false;
    bool share = false;
    bool trust_paths = false;
    std::string max_memory;
    std::string clock = "resume";
    std::vector<std::string> settings;
    HostOptions host;
};

Result<int> restore(const RestoreCommand& options, const Globals& globals) {
    const AreaPath area = TRY(AreaPath::parse(options.area));
    if (options.count < 1 || options.count > 10'000) {
        return fail(ErrorKind::usage, "-n " + std::to_string(options.count) + " is not a possible number of machines",
                    "give 1 to 10000");
    }
    if (options.count > 1) {
        // Checked before the first of them runs; otherwise the second would fail.
        const MachineConfig config = TRY(config_in(area));
        TRY(check_clones(config.devices, options.settings, options.count));
        TRY(options.host.check_clones(options.count));
    }
    std::optional<std::uint64_t> max_memory;
    if (!options.max_memory.empty()) {
        max_memory = TRY(parse_memory_size(options.max_memory));
    }
    Launch wanted;
    wanted.options = options.count > 1 ? options.host : options.host.for_clone(0);
    wanted.globals = globals;
    wanted.start_paused = options.paused;
    wanted.build = [&](const kvm::System& system, unsigned clone) -> Result<BuiltMachine> {
        DeviceOverrides devices = TRY(parse_settings(options.settings, clone));
        auto built = restore_machine(system,
                                     {.area = area,
                                      .share = options.share,
                                      .gap = options.clock == "continue" ? GapMode::seen : GapMode::hidden,
                                      .devices = std::move(devices),
                                      .max_memory_bytes = max_memory,
                                      .trust_paths = options.trust_paths},
                                     options.host.setup());
        if (built && clone == 0 && !built->lost.empty()) {
            print_error("warning: " + built->lost);
        }
        return built;
    };
    return options.count > 1 ? launch_many(std::move(wanted), options.count) : launch(std::move(wanted));
}

}  // namespace

void add_restore(Command program, Globals& globals) {
    auto options = std::make_shared<RestoreCommand>();
    Command command = program.subcommand("restore", "bring back the machine in a snapshot area, once or many times");
    command.example("snapvm restore vm.snap --name clone -n 10 --set disk.root.path=clone-{i}.img");
    command.required("AREA", options->area, "snapshot area, PATH[@OFFSET]");
    command.option("-n N", options->count,
                   "the number of machines; more than one are detached and named NAME-0 and on, or by {i} in NAME "
                   "(default: 1)");
    command.flag("--paused", options->paused, "do not run the machine before snapvm resume");
    command.flag("--share", options->share, "keep pages that hold the same in memory once; looks at all page entries");
    command.option(
        "--clock", options->clock, {"resume", "continue"},
        "resume: the guest's clock goes on from where it was; continue: it shows the time since the snapshot "
        "(default: resume)");
    command.list("--set DEVICE.KEY=VALUE", options->settings,
                 "give a device another place on this host: disk.ID.path=FILE, disk.ID.backing=FILE, net.ID.tap=TAP, "
                 "vsock.socket=PATH, vsock.cid=N; {i} in VALUE is the number of the clone");
    command.option("--max-mem SIZE", options->max_memory,
                   "refuse a machine with more memory than this (default: the host's memory)");
    command.flag("--trust-paths", options->trust_paths,
                 "use whatever the snapshot names on this host; else a snapshot that somebody else took may use what "
                 "--set names");
    options->host.add_to(command);
    command.action([=, &globals] { return restore(*options, globals); });
}

}  // namespace snapvm::cli
