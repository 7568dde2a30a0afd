// SPDX-License-Identifier: Apache-2.0
// snapvm run: boots a guest in a new machine, or waits for the machine in a snapshot.
#include <memory>
#include <vector>

#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/device_options.h"
#include "vmm/cli/launch.h"
#include "vmm/control/guest_files.h"

namespace snapvm::cli {
namespace {

struct RunOptions {
    bool has_kernel = false;
    std::string needs_kernel;  ///< an option that is given and describes the machine
    std::string kernel;
    std::string boot = "auto";
    std::vector<std::string> initrds;
    std::string cmdline;
    std::string memory = "256M";
    std::uint32_t cpus = 1;
    std::string pages = "auto";
    std::vector<std::string> disks;
    std::vector<std::string> nets;
    std::string balloon;
    std::string vsock;
    bool rng = false;
    HostOptions host;
};

Result<BalloonConfig> parse_balloon(std::string_view text) {
    constexpr std::string_view kSize = "size=";
    if (!text.starts_with(kSize)) {
        return fail(ErrorKind::usage, "--balloon " + std::string(text) + " is not a balloon's size",
                    "write --balloon size=0 or size=64M");
    }
    return BalloonConfig{.bytes = TRY(parse_memory_size(text.substr(kSize.size())))};
}

Result<MachineConfig> config_of(const RunOptions& options) {
    MachineConfig config;
    config.memory_bytes = TRY(parse_memory_size(options.memory));
    config.cpus = options.cpus;
    config.pages = options.pages == "4k"    ? PagePolicy::small_pages
                   : options.pages == "thp" ? PagePolicy::huge_pages
                                            : PagePolicy::automatic;
    config.boot = options.boot == "pvh"       ? BootProtocol::pvh
                  : options.boot == "linux64" ? BootProtocol::linux64
                                              : BootProtocol::automatic;
    config.kernel = options.kernel;
    config.initrds = options.initrds;
    config.cmdline = options.cmdline;
    for (const std::string& disk : options.disks) {
        config.devices.disks.push_back(TRY(parse_disk(disk)));
    }
    for (const std::string& net : options.nets) {
        config.devices.nets.push_back(TRY(parse_net(net)));
    }
    if (!options.balloon.empty()) {
        config.devices.balloon = TRY(parse_balloon(options.balloon));
    }
    if (!options.vsock.empty()) {
        config.devices.vsock = TRY(parse_vsock(options.vsock));
    }
    config.devices.rng = options.rng;
    config.devices.console = options.host.console_given;
    config.machine_id = TRY(Uuid::random());
    TRY(config.validate());
    return config;
}

// Without a kernel the process waits for a machine, as `firecracker --api-sock` does. It needs a
// name or a socket by which a client finds it.
Result<int> run_without_machine(const RunOptions& options, const Globals& globals) {
    if (options.host.name.empty() && options.host.api_socket.empty()) {
        return fail(ErrorKind::usage, "--kernel is required",
                    "with --name or --api-socket in its place, the process waits for PUT /snapshot/load");
    }
    if (!options.needs_kernel.empty()) {
        return fail(ErrorKind::usage, options.needs_kernel + " needs --kernel",
                    "without a kernel the machine comes from a snapshot, with all its devices");
    }
    Launch wanted;
    wanted.options = options.host;
    wanted.globals = globals;
    return launch(std::move(wanted));
}

Result<int> run(const RunOptions& options, const Globals& globals) {
    if (!options.has_kernel) {
        return run_without_machine(options, globals);
    }
    const MachineConfig config = TRY(config_of(options));
    const GuestFiles files = TRY(GuestFiles::open(config));
    Launch wanted;
    wanted.options = options.host;
    wanted.globals = globals;
    wanted.boots = true;
    wanted.build = [&](const kvm::System& system, unsigned /*clone*/) -> Result<BuiltMachine> {
        return BuiltMachine{TRY(Machine::create(system, config, files.source(), options.host.setup())), 0};
    };
    return launch(std::move(wanted));
}

}  // namespace

void add_run(Command program, Globals& globals) {
    auto options = std::make_shared<RunOptions>();
    Command command = program.subcommand("run", "boot a guest in a new machine");
    command.example("snapvm run --kernel vmlinuz --cmdline console=ttyS0 --mem 512M --disk id=root,path=root.img");
    command.section("The guest");
    command.option("--kernel FILE", options->kernel,
                   "ELF kernel, bzImage, or builtin:ledger (default: none; wait for PUT /snapshot/load)");
    command.option("--boot", options->boot, {"auto", "pvh", "linux64"}, "the boot protocol (default: auto)");
    command.list("--initrd FILE", options->initrds, "an initial RAM disk; may be given several times");
    command.option("--cmdline TEXT", options->cmdline, "the guest's command line");
    command.section("The machine");
    command.option("--mem SIZE", options->memory, "guest memory, a multiple of 2M; a number is MiB (default: 256M)");
    command.option("--cpus N", options->cpus, "vCPUs, 1 to 64 (default: 1)");
    command.option("--pages", options->pages, {"auto", "4k", "thp"}, "the pages behind guest memory (default: auto)");
    command.section("Devices");
    command.list(
        "--disk id=ID,path=FILE[,format=raw|qcow2][,readonly=on][,backing=FILE][,werror=stop]"
        "[,ephemeral=on|file][,ephemeral-max=SIZE]",
        options->disks,
        "a file or block device, raw or qcow2; werror=stop pauses the guest if a write fails; with ephemeral "
        "the guest's writes go to memory, or to a temporary file, and are gone when it ends; may be given "
        "several times");
    command.list("--net id=ID,tap=TAP[,mac=MAC]", options->nets,
                 "a network interface on a tap; may be given several times");
    command.option("--balloon size=SIZE", options->balloon,
                   "a virtio balloon, and the memory that it takes from the guest at first");
    command.option("--vsock cid=N,socket=PATH", options->vsock,
                   "streams between the guest, as cid N, and unix sockets: PATH, and PATH_PORT for the guest's own");
    command.flag("--rng", options->rng, "a virtio device that gives random numbers");
    const std::size_t describing = command.options();  // the machine; --kernel and --help too
    options->host.add_to(command);
    command.action([=, &globals] {
        options->has_kernel = command.given("--kernel");
        options->needs_kernel = command.first_given(describing);
        return run(*options, globals);
    });
}

}  // namespace snapvm::cli
