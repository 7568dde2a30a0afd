// SPDX-License-Identifier: Apache-2.0
// A machine with Linux, and the conversation with its shell.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "snapshot/area/area_path.h"
#include "snapshot/write/write_snapshot.h"
#include "tests/support/need.h"
#include "vmm/machine/machine.h"

namespace snapvm::test {

/// Returns the folder in which `./dev linux` puts its output: build/linux, or what
/// SNAPVM_LINUX_IMAGE names.
[[nodiscard]] std::string image_folder();

/// Returns arguments for the kernel's command line that guests need on this host. If KVM emulates
/// kernel mode, they leave out what only costs instructions and what the emulator lacks
/// (guest-images/linux/README.md). SNAPVM_TEST_KERNEL_ARGUMENTS adds more (tests/hosts/amd_v/init).
[[nodiscard]] std::string host_arguments();

struct LinuxImage {
    std::string kernel;
    std::string initramfs;

    static LinuxImage find();
    [[nodiscard]] bool built() const;
};

/// Host resources of a machine. Each machine has its own.
struct GuestPlaces {
    std::string disk;
    std::string tap;  ///< empty: the machine has no network interface
    std::string vsock;
};

/// A running guest. If something that it waits for does not come, it throws an exception with what
/// the guest has said instead.
class LinuxGuest {
public:
    static constexpr std::uint32_t kCid = 3;

    /// Boots a new machine with one of each device. `arguments` are added to the kernel's command
    /// line.
    static LinuxGuest boot(const LinuxImage& image, const GuestPlaces& places, const std::string& arguments = {},
                           unsigned cpus = 1);
    static LinuxGuest restore(const AreaPath& area, const GuestPlaces& places, GapMode gap = GapMode::hidden);

    struct Answer {
        int status = -1;  ///< the shell's $?
        std::string output;
    };
    /// Runs a line, or several, in the shell on the virtio console. A command that reads its input
    /// needs a redirection, because the console's input belongs to the shell.
    Answer run(const std::string& command);
    /// Returns the output of a command without its last newline. The command must end with 0.
    std::string output(const std::string& command);
    /// Starts a command in the background with its output in a file. Returns its process.
    std::string start(const std::string& command, const std::string& file);
    /// Waits in the guest until a file has a line with `text`.
    void wait_for(const std::string& text, const std::string& file);
    /// Sends text to the virtio console unchanged.
    void type(std::string_view text);

    /// Returns the output of the kernel and of the programs on the serial port since the machine
    /// was made.
    [[nodiscard]] std::string log() const;
    /// Waits until the log has `text`.
    void wait_for_log(std::string_view text) const;
    /// Waits until the shells of a booting machine can be used.
    void wait_for_shell(std::chrono::seconds patience);
    /// Returns lines of the log that a healthy kernel does not write, or an empty text.
    [[nodiscard]] std::string trouble() const;

    Outcome wait_end();
    /// Makes a live snapshot and ends the machine, so that its disk stays as it is at that moment.
    SnapshotReport snapshot_and_stop(const AreaPath& area, SnapshotMode mode = SnapshotMode::live);

    [[nodiscard]] Machine& machine() { return *machine_; }

private:
    explicit LinuxGuest(std::unique_ptr<Machine> machine) : machine_(std::move(machine)) {}
    void wait_in(const Console& console, std::string_view text, SteadyClock::time_point deadline) const;
    [[noreturn]] void give_up(const std::string& what, const std::string& seen) const;

    std::unique_ptr<Machine> machine_;
    std::uint64_t position_ = 0;  ///< in the virtio console's output
    unsigned commands_ = 0;
};

}  // namespace snapvm::test
