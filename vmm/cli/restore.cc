// SPDX-License-Identifier: Apache-2.0
// snapvm restore: machines from a snapshot.
#include <CLI/CLI.hpp>
#include <memory>

#include "snapshot/restore.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/device_options.h"
#include "vmm/cli/hosted_run.h"

namespace snapvm::cli {
namespace {

struct RestoreCommand {
    std::string area;
    unsigned count = 1;
    bool paused = false;
    bool share = false;
    std::string clock = "resume";
    std::vector<std::string> settings;
    HostOptions host;
};

Result<int> restore(const RestoreCommand& options, const Globals& globals) {
    const AreaPath area = TRY(AreaPath::parse(options.area));
    if (options.count < 1 || options.count > 10'000) {
        return fail(ErrorKind::usage, "-n " + std::to_string(options.count) + " machines cannot be had", "give 1 to 10000");
    }
    if (options.count > 1) {
        // Before the first of them runs, and not by whichever comes second.
        const MachineConfig config = TRY(config_in(area));
        TRY(check_clones(config.devices, options.settings, options.count));
        TRY(options.host.check_clones(options.count));
    }
    HostedRun hosted;
    hosted.options = options.count > 1 ? options.host : options.host.for_clone(0);
    hosted.globals = globals;
    hosted.start_paused = options.paused;
    hosted.build = [&](const kvm::System& system, unsigned clone) -> Result<BuiltMachine> {
        RestoredSnapshot snapshot = TRY(open_snapshot(area, {.share = options.share}));
        for (const std::string& setting : options.settings) {
            TRY(set_device(snapshot.saved.config.devices, setting, clone));
        }
        HostSetup setup = options.host.setup();
        setup.gap = options.clock == "continue" ? GapMode::seen : GapMode::hidden;
        std::unique_ptr<Machine> machine = TRY(Machine::restore(system, snapshot.saved, std::move(snapshot.memory), setup));
        BuiltMachine built{std::move(machine), snapshot.map_us};
        if (options.share) {
            built.shared = SharedMemory{snapshot.shared_runs, snapshot.shared_pages};
        }
        return built;
    };
    return options.count > 1 ? hosted.run_many(options.count) : hosted.run();
}

}  // namespace

void add_restore(CLI::App& app, Globals& globals, Action& chosen) {
    auto options = std::make_shared<RestoreCommand>();
    CLI::App* command = app.add_subcommand("restore", "bring back the machine in a snapshot area, once or many times");
    command->add_option("area", options->area, "snapshot area, PATH[@OFFSET]")->required();
    command->add_option(
        "-n", options->count,
        "how many; more than one are detached and named NAME-0 and on, or by their number where NAME has {i} (default: 1)");
    command->add_flag("--paused", options->paused, "do not run it yet; snapvm resume does");
    command->add_flag("--share", options->share,
                      "keep one copy in memory of pages that hold the same; takes a look at all page entries");
    command
        ->add_option(
            "--clock", options->clock,
            "resume: the guest's clock goes on from where it was; continue: the guest sees the time since (default: resume)")
        ->check(CLI::IsMember({"resume", "continue"}));
    command
        ->add_option("--set", options->settings,
                     "DEVICE.KEY=VALUE, of the host's side of its devices: disk.ID.path=F, net.ID.tap=T, vsock.socket=P, "
                     "vsock.cid=N; {i} in VALUE is the "
                     "number of the clone")
        ->expected(1)
        ->take_all();
    options->host.add_to(*command);
    command->callback([=, &globals, &chosen] { chosen = [=, &globals] { return restore(*options, globals); }; });
}

}  // namespace snapvm::cli
