// SPDX-License-Identifier: Apache-2.0
// snapvm run: a new machine with a guest booted in it.
#include <CLI/CLI.hpp>
#include <memory>

#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/device_options.h"
#include "vmm/cli/guest_files.h"
#include "vmm/cli/hosted_run.h"

namespace snapvm::cli {
namespace {

struct RunOptions {
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
        return fail(ErrorKind::usage, "--balloon " + std::string(text) + " is not understood", "give size=0, or size=64M");
    }
    return BalloonConfig{.bytes = TRY(parse_size(text.substr(kSize.size())))};
}

Result<MachineConfig> config_of(const RunOptions& options) {
    MachineConfig config;
    config.memory_bytes = TRY(parse_size(options.memory));
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

Result<int> run(const RunOptions& options, const Globals& globals) {
    const MachineConfig config = TRY(config_of(options));
    const GuestFile kernel = TRY(GuestFile::open(options.kernel, "kernel"));
    std::vector<GuestFile> initrds;
    BootSource source{.kernel = kernel.bytes(),
                      .initrds = {},
                      .cmdline = options.cmdline,
                      .cpus = options.cpus,
                      .force_pvh = config.boot == BootProtocol::pvh,
                      .force_linux64 = config.boot == BootProtocol::linux64};
    for (const std::string& path : options.initrds) {
        initrds.push_back(TRY(GuestFile::open(path, "initrd")));
        source.initrds.push_back(initrds.back().bytes());
    }
    HostedRun hosted;
    hosted.options = options.host;
    hosted.globals = globals;
    hosted.boots = true;
    hosted.build = [&](const kvm::System& system, unsigned /*clone*/) -> Result<BuiltMachine> {
        return BuiltMachine{TRY(Machine::create(system, config, source, options.host.setup())), 0};
    };
    return hosted.run();
}

}  // namespace

void add_run(CLI::App& app, Globals& globals, Action& chosen) {
    auto options = std::make_shared<RunOptions>();
    CLI::App* command = app.add_subcommand("run", "boot a guest in a new machine");
    command->add_option("--kernel", options->kernel, "ELF kernel, bzImage, or builtin:ledger")->required();
    command->add_option("--boot", options->boot, "boot protocol")->check(CLI::IsMember({"auto", "pvh", "linux64"}));
    command->add_option("--initrd", options->initrds, "initial RAM disk; may be given several times")->expected(1)->take_all();
    command->add_option("--cmdline", options->cmdline, "the guest's command line");
    command->add_option("--mem", options->memory, "guest memory, a multiple of 2M (default: 256M)");
    command->add_option("--cpus", options->cpus, "vCPUs, 1 to 64 (default: 1)");
    command->add_option("--pages", options->pages, "pages behind guest memory")->check(CLI::IsMember({"auto", "4k", "thp"}));
    command
        ->add_option("--disk", options->disks,
                     "id=ID,path=FILE[,readonly=on]: a raw file or block device; may be given several times")
        ->expected(1)
        ->take_all();
    command->add_option("--net", options->nets, "id=ID,tap=TAP[,mac=M]: a network interface on a tap; may be given several times")
        ->expected(1)
        ->take_all();
    command->add_option("--balloon", options->balloon, "a virtio balloon, and what it takes from the guest at first: size=0");
    command->add_option("--vsock", options->vsock,
                        "cid=N,socket=P: streams between the guest, as cid N, and unix sockets: P, and P_PORT for the guest's own");
    command->add_flag("--rng", options->rng, "a virtio device of random numbers");
    options->host.add_to(*command);
    command->callback([=, &globals, &chosen] { chosen = [=, &globals] { return run(*options, globals); }; });
}

}  // namespace snapvm::cli
