// SPDX-License-Identifier: Apache-2.0
// A machine with Linux in it, and the talk with its shell.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "snapshot/area_path.h"
#include "snapshot/writer.h"
#include "tests/support/need.h"
#include "vmm/machine/machine.h"

namespace snapvm::test {

/// Where `./dev linux` puts what it makes: build/linux, or the folder that SNAPVM_LINUX_IMAGE names.
[[nodiscard]] std::string image_folder();

/// For the end of a kernel's command line: what guests need on this host. Where kernel mode is emulated, they leave out what costs instructions
/// for nothing, and what the emulator lacks (guest-images/linux/README.md). SNAPVM_TEST_KERNEL_ARGUMENTS adds more (tests/hosts/amd_v/init).
[[nodiscard]] std::string host_arguments();

struct LinuxImage {
    std::string kernel;
    std::string initramfs;

    static LinuxImage find();
    [[nodiscard]] bool built() const;
};

/// What of a machine is the host's, and each has for itself.
struct GuestPlaces {
    std::string disk;
    std::string tap;  ///< empty: the machine has no network interface
    std::string vsock;
};

/// Runs from the beginning. Whatever it waits for and does not come is an exception that says what the guest has said instead.
class LinuxGuest {
public:
    static constexpr std::uint32_t kCid = 3;

    /// A new machine with one of each device. `arguments`: more for the kernel's command line.
    static LinuxGuest boot(const LinuxImage& image, const GuestPlaces& places, const std::string& arguments = {},
                           unsigned cpus = 1);
    static LinuxGuest restore(const AreaPath& area, const GuestPlaces& places, GapMode gap = GapMode::hidden);

    struct Answer {
        int status = -1;  ///< the shell's $?
        std::string output;
    };
    /// A line, or several, for the shell on the virtio console. What reads its input must be given one: the console's is the shell's.
    Answer run(const std::string& command);
    /// Output of a command that must end with 0, without its last newline.
    std::string output(const std::string& command);
    /// Starts a command that goes on behind the shell's back, its output in a file. Its process.
    std::string start(const std::string& command, const std::string& file);
    /// Waits, in the guest, until a file has a line with `text`.
    void wait_for(const std::string& text, const std::string& file);
    /// To the virtio console, as it is.
    void type(std::string_view text);

    /// What the kernel, and who has the serial port, has said since the machine is there.
    [[nodiscard]] std::string log() const;
    /// Waits until the log has `text`.
    void wait_for_log(std::string_view text) const;
    /// Of a machine that boots: until its shells can be talked with.
    void wait_for_shell(std::chrono::seconds patience);
    /// Lines of the log that no kernel in good health writes; empty: it is.
    [[nodiscard]] std::string trouble() const;

    Outcome wait_end();
    /// A live snapshot that the machine does not outlive: its disk stays as it is at that moment.
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
