// SPDX-License-Identifier: Apache-2.0
#include "tests/linux/linux_guest.h"

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <vector>

#include "snapshot/restore/restore.h"
#include "tests/support/kernel_log.h"
#include "tests/support/paths.h"
#include "vmm/control/machine_service.h"
#include "vmm/emulate/kernel_mode_repair.h"
#include "vmm/kvm/system.h"

namespace snapvm::test {
namespace {

constexpr std::string_view kPrompt = "guest# ";

const kvm::System& kvm_system() {
    static const kvm::System system = need(kvm::System::open());
    return system;
}

std::vector<std::byte> bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<std::byte> bytes(std::filesystem::file_size(path));
    if (!file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()))) {
        throw std::runtime_error(path + " cannot be read");
    }
    return bytes;
}

// The clock source is kvm-clock. A TSC cannot be set on every host, and would show the time that a
// restore is to hide.
std::string command_line() { return "console=ttyS0 clocksource=kvm-clock" + host_arguments(); }

std::string without(std::string text, std::string_view part) {
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at)) {
        text.erase(at, part.size());
    }
    return text;
}

}  // namespace

std::string image_folder() {
    const char* folder = std::getenv("SNAPVM_LINUX_IMAGE");
    return folder != nullptr ? folder : source_folder() + "/build/linux";
}

std::string host_arguments() {
    std::string arguments;
    if (emulate::kernel_mode_is_emulated()) {
        arguments = " tsc=reliable no_timer_check mitigations=off lpj=10000000 clearcpuid=erms,fsrm,smap,cx16,popcnt";
    }
    if (const char* more = std::getenv("SNAPVM_TEST_KERNEL_ARGUMENTS"); more != nullptr) {
        arguments += std::string(" ") + more;
    }
    return arguments;
}

LinuxImage LinuxImage::find() { return {image_folder() + "/vmlinux", image_folder() + "/initramfs.cpio"}; }

bool LinuxImage::built() const { return std::filesystem::exists(kernel) && std::filesystem::exists(initramfs); }

LinuxGuest LinuxGuest::boot(const LinuxImage& image, const GuestPlaces& places, const std::string& arguments,
                            unsigned cpus) {
    MachineConfig config;
    config.cpus = cpus;
    config.memory_bytes = 128ULL << 20;
    config.kernel = image.kernel;
    config.initrds = {image.initramfs};
    config.cmdline = command_line() + (arguments.empty() ? "" : " " + arguments);
    config.devices.disks = {{.id = "root", .path = places.disk}};
    if (!places.tap.empty()) {
        config.devices.nets = {{.id = "eth0", .tap = places.tap, .mac = need(random_mac())}};
    }
    config.devices.vsock = VsockConfig{.cid = kCid, .socket = places.vsock};
    config.devices.balloon = BalloonConfig{};
    config.devices.rng = true;
    config.devices.console = true;
    config.machine_id = need(Uuid::random());
    need(config.validate());
    const std::vector<std::byte> kernel = bytes_of(image.kernel);
    const std::vector<std::byte> initramfs = bytes_of(image.initramfs);
    LinuxGuest guest(need(
        Machine::create(kvm_system(), config,
                        {.kernel = kernel, .initrds = {initramfs}, .cmdline = config.cmdline, .cpus = config.cpus})));
    need(guest.machine_->resume());
    return guest;
}

LinuxGuest LinuxGuest::restore(const AreaPath& area, const GuestPlaces& places, GapMode gap) {
    RestoredSnapshot snapshot = need(open_snapshot(area));
    DeviceConfig& devices = snapshot.saved.config.devices;
    devices.disks.at(0).path = places.disk;
    devices.vsock.value().socket = places.vsock;
    if (!devices.nets.empty()) {
        devices.nets[0].tap = places.tap;
    }
    LinuxGuest guest(need(Machine::restore(kvm_system(), snapshot.saved, std::move(snapshot.memory), {.gap = gap})));
    need(guest.machine_->resume());
    return guest;
}

void LinuxGuest::type(std::string_view text) {
    const std::span all(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    if (machine_->virtio_console().send(all, soon()) != text.size()) {
        give_up("the virtio console does not take \"" + std::string(text) + "\"", "");
    }
}

LinuxGuest::Answer LinuxGuest::run(const std::string& command) {
    const std::string end = "ANSWER-" + std::to_string(++commands_) + " ";
    type(command + "\necho " + end + "$?\n");
    std::string seen;
    for (const auto deadline = soon();;) {
        if (const std::size_t at = seen.find(end);
            at != std::string::npos && seen.find('\n', at) != std::string::npos) {
            return {std::atoi(seen.c_str() + at + end.size()), without(without(seen.substr(0, at), "\r"), kPrompt)};
        }
        const Console::Chunk chunk = machine_->virtio_console().output().read(position_, deadline);
        if (chunk.bytes.empty()) {
            give_up("no answer to \"" + command + "\"", seen);
        }
        seen += chunk.bytes;
        position_ = chunk.next;
    }
}

std::string LinuxGuest::output(const std::string& command) {
    Answer answer = run(command);
    EXPECT_EQ(answer.status, 0) << command << "\n" << answer.output;
    if (answer.output.ends_with('\n')) {
        answer.output.pop_back();
    }
    return answer.output;
}

std::string LinuxGuest::start(const std::string& command, const std::string& file) {
    // A shell of its own runs the command, so that this shell reports no end of a job.
    return output("({ " + command + "; } > " + file + " 2>&1 < /dev/null & echo $!)");
}

void LinuxGuest::wait_for(const std::string& text, const std::string& file) {
    (void)output("wait_for '" + text + "' " + file);
}

std::string LinuxGuest::log() const {
    return without(machine_->serial().output().read(0, SteadyClock::now()).bytes, "\r");
}

void LinuxGuest::wait_for_log(std::string_view text) const { wait_in(machine_->serial().output(), text, soon()); }

void LinuxGuest::wait_for_shell(std::chrono::seconds patience) {
    const auto deadline = SteadyClock::now() + patience;
    wait_in(machine_->serial().output(), "SNAPVM LINUX READY", deadline);
    // Input that is sent before the prompt would be echoed.
    wait_in(machine_->virtio_console().output(), kPrompt, deadline);
    position_ = machine_->virtio_console().output().end();
    // Defines `wait_for` without another program: if KVM emulates kernel mode, starting one takes
    // half a second. No process writes into the pipe, so that reading from it is a sleep.
    (void)output(
        "mkfifo /run/never\n"
        "has() { while read -r line; do case $line in *\"$1\"*) return 0;; esac; done < $2; return 1; }\n"
        "wait_for() { until has \"$1\" $2 2> /dev/null; do read -t 0.1 -r line <> /run/never; done; true; }");
}

void LinuxGuest::wait_in(const Console& console, std::string_view text, SteadyClock::time_point deadline) const {
    std::string seen;
    std::uint64_t position = 0;
    while (seen.find(text) == std::string::npos) {
        const Console::Chunk chunk = console.read(position, deadline);
        if (chunk.bytes.empty()) {
            give_up("there is no \"" + std::string(text) + "\"", seen);
        }
        seen += chunk.bytes;
        position = chunk.next;
    }
}

std::string LinuxGuest::trouble() const { return trouble_in(log()); }

Outcome LinuxGuest::wait_end() {
    const auto outcome = machine_->wait_ended(soon());
    if (!outcome) {
        give_up("the machine does not end", "");
    }
    return *outcome;
}

SnapshotReport LinuxGuest::snapshot_and_stop(const AreaPath& area, SnapshotMode mode) {
    MachineService service(*machine_, "linux");
    SnapshotReport report =
        need(service.snapshot({.area = area, .then = AfterSnapshot::stop, .metadata = {}, .mode = mode, .live = {}}));
    machine_.reset();
    return report;
}

void LinuxGuest::give_up(const std::string& what, const std::string& seen) const {
    const auto outcome = machine_->wait_ended(SteadyClock::now());
    const std::string end = !outcome         ? "it runs"
                            : outcome->error ? "it has ended: " + outcome->error->message()
                                             : "it has ended: " + std::string(outcome->name());
    throw std::runtime_error(what + " (" + end + "). It said: " + seen + "\nIts log:\n" + log());
}

}  // namespace snapvm::test
