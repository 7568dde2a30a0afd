// SPDX-License-Identifier: Apache-2.0
// A virtual machine in this process: boot a guest or restore one, talk to it, snapshot it, end it.
#pragma once

#include <snapvm/error.h>
#include <snapvm/host.h>
#include <snapvm/snapshot.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace snapvm::embed {

/// How a disk's file is read. unstated: as raw; a file that looks like an image of another format
/// (qcow2, VMDK, VHD…), or that ends within a sector of 512 bytes, is refused. raw: its bytes as
/// they are. qcow2: as an image, with the images behind it.
enum class DiskFormat : std::uint8_t { unstated, raw, qcow2 };

/// What happens to a guest's write, discard or flush that fails on the host. report: the guest gets
/// the error. stop: the guest does not see it, the machine is paused (Machine::pause_reason), and
/// resume() tries the request again.
enum class WriteErrors : std::uint8_t { report, stop };

/// Where the guest's writes to a disk go. off: into the disk. Otherwise the disk is only read, any
/// number of machines can have it, and the writes are gone with the machine. memory: they are in
/// the host's memory. file: they are in an unnamed file, in $TMPDIR or /var/tmp.
enum class Ephemeral : std::uint8_t { off, memory, file };

/// A virtio disk on an image or a block device.
struct Disk {
    std::string id = {};    ///< 1 to 20 characters, unique among disks and networks; the guest's serial number of it
    std::string path = {};  ///< a relative path counts from the current folder of the call
    bool read_only = false;
    DiskFormat format = DiskFormat::unstated;
    /// Backing files of a qcow2 image that may be devices or other users' files. The image may name
    /// those of this user by itself.
    std::vector<std::string> backing = {};
    WriteErrors write_errors = WriteErrors::report;
    /// Machine::snapshot() fails with unsupported unless this is `off`.
    Ephemeral ephemeral = Ephemeral::off;
    /// The most bytes for the guest's writes to an ephemeral disk; more fail as on a full disk. 0:
    /// 1 GiB in memory, no limit in a file.
    std::uint64_t ephemeral_max_bytes = 0;
};

/// A virtio network interface on a tap.
struct Network {
    std::string id = {};   ///< 1 to 20 characters, unique among disks and networks
    std::string tap = {};  ///< the tap's name; it must exist
    std::string mac = {};  ///< "02:00:00:00:00:0a"; empty: a random one, which the machine's snapshots keep
};

/// A virtio socket device.
struct Vsock {
    std::uint32_t cid = 3;    ///< the guest's context id, 3 or more
    /// Unix socket that host programs connect to; the guest's own connections go to PATH_PORT. A
    /// relative path counts from the folder in which a machine is made, also by a restore.
    std::string socket = {};
};

/// How a kernel is entered. automatic: by PVH if the kernel has the note, else by Linux' 64-bit
/// entry.
enum class BootProtocol : std::uint8_t { automatic, pvh, linux64 };

/// A machine that boots. Every machine has a serial port, which the guest sees as COM1.
struct MachineConfig {
    /// Path of an ELF kernel or a bzImage; "builtin:ledger": the test guest. Relative paths, here
    /// and below, count from the current folder of the call.
    std::string kernel = {};
    std::vector<std::string> initrds = {};  ///< paths, 16 at most
    std::string command_line = {};  ///< 4095 bytes at most
    BootProtocol boot = BootProtocol::automatic;
    std::uint64_t memory_bytes = 256ULL << 20;  ///< a multiple of 2 MiB, from 2 MiB to 1 TiB
    std::uint32_t cpus = 1;  ///< 1 to 64
    std::vector<Disk> disks = {};
    std::vector<Network> networks = {};
    std::optional<Vsock> vsock = {};
    std::optional<std::uint64_t> balloon_bytes = {};  ///< a balloon that takes this much at first, a multiple of 4 KiB
    bool rng = false;  ///< a virtio device that gives random numbers
};

/// A machine that has not run since it was made is paused.
enum class State : std::uint8_t { paused, running, ended };

/// How a run ended.
struct Outcome {
    enum class Kind : std::uint8_t {
        power_off,
        reboot,
        guest_exit,  ///< through the exit port 0xF4; `code` is the guest's
        triple_fault,
        guest_panic,  ///< reported through pvpanic
        failed,  ///< KVM or snapvm could not go on; `error` says why
        stopped,  ///< by stop(), by a snapshot with AfterSnapshot::stop
    };
    Kind kind = Kind::stopped;
    std::uint8_t code = 0;  ///< the guest's own, for guest_exit
    std::optional<Error> error = {};  ///< for failed
    std::string crash_report = {};  ///< for triple_fault and failed: lines on registers, code and stack of the vCPU
    int exit_code = 0;  ///< that of `snapvm run`: 0, 1 failed, 3 panic, 4 triple fault, or the guest's code
    std::string name = {};  ///< one word: "power-off", "reboot", "exit", "triple-fault", "panic", …
};

/// Output of the serial port.
struct SerialOutput {
    std::string bytes = {};
    std::uint64_t next = 0;  ///< the position after the last of them, for the next read
};

/// Counters of a network interface, since this machine was made. Received: by the guest.
struct NetworkStatistics {
    std::string id = {};
    bool link_up = false;
    std::uint64_t received_frames = 0, received_bytes = 0, received_dropped = 0;
    std::uint64_t transmitted_frames = 0, transmitted_bytes = 0, transmitted_dropped = 0;
};

/// Counters of a machine, since it was made.
struct Statistics {
    std::chrono::microseconds uptime{};
    std::uint64_t exits = 0;  ///< returns from KVM_RUN, of all vCPUs
    bool ready = false;  ///< the guest has reported READY through the test port
    std::uint32_t ready_value = 0;
    std::uint64_t marks = 0;  ///< MARKs that the guest has written to the test port
    std::uint32_t mark = 0;  ///< the last of them
    std::uint64_t serial_bytes = 0;  ///< written by the guest
    std::vector<NetworkStatistics> networks = {};
};

/// The sizes of a balloon.
struct Balloon {
    std::uint64_t target_bytes = 0;  ///< asked for by the host
    std::uint64_t actual_bytes = 0;  ///< held, as the guest reports
};

/// One virtual machine, in this process. It is made paused, resume() starts it, and its run ends
/// once: by the guest, by stop(), or with the object.
///
/// Threads. Any thread may call any function, also several at once, but construction, destruction
/// and moves need the object for themselves (a callback of the machine is excepted). The machine's
/// own threads (one for each vCPU, one or two for virtio devices, one for a callback, and others
/// while a snapshot is made) block all signals but those of their own faults (SIGSEGV, SIGBUS,
/// SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT). The threads of vCPUs take SIGURG too: the process'
/// first machine installs a handler for it, in place of another one, which must stay while there
/// are machines. A process that forks must exec: a machine does not survive in the child.
///
/// Time limits. Functions that wait have a parameter for the longest wait. Negative counts as zero.
///
/// Errors. Functions throw nothing but std::bad_alloc. Their errors say what was wrong: usage is
/// the caller's; system is the host's, mostly with a call, an object and errno. After an error the
/// machine is as before, unless resume() says otherwise.
///
/// The end. wait_ended() and stop() return when the end is decided. Output may still be on its way
/// to a callback then, other vCPUs may be in their last instructions, and disk requests under way.
/// All is complete once the machine is destroyed.
class Machine {
public:
    /// Builds a machine with a guest loaded. The kernel and the initrds are not needed afterwards.
    ///
    /// Fails with usage if the configuration is not possible, with invalid if the kernel cannot be
    /// loaded, with busy if another machine has a disk or the vsock's socket, with not_found if a
    /// tap does not exist, and with system if a file or a socket does not open, or KVM refuses.
    static Result<Machine> create(const Host& host, const MachineConfig& config);

    /// Builds the machine in a snapshot. Its memory is mapped from the area, and a page is read
    /// when the guest touches it. The machine does not write to the area, so any number of machines
    /// can be restored from it. It must stay as it is as long as one of them lives; a snapshot over
    /// it fails with busy.
    ///
    /// Fails with system if the area does not open, with invalid if it is no area or is damaged,
    /// with incomplete if its snapshot was not finished, with busy while it is written, with usage
    /// if there is no such device as `options` names, or if the snapshot names disks, taps or a
    /// socket that it may not use (RestoreOptions), with unsupported if this host cannot run the
    /// machine (its processor lacks a feature that the guest uses) or the machine has more memory
    /// than it may, and for its devices as create() does.
    static Result<Machine> restore(const Host& host, const Area& area, const RestoreOptions& options = {});

    /// A machine that was moved from can be destroyed and assigned to, and nothing else.
    Machine(Machine&& other) noexcept;
    /// Destroys the machine that was here, as the destructor does.
    Machine& operator=(Machine&& other) noexcept;
    /// Ends the run if it has not ended, as stop() with no time does. Returns when no thread of the
    /// machine runs any more; a callback has then returned from its last call. A callback gets all
    /// output of the run first, so it must not wait for the thread that destroys the machine.
    ~Machine();

    [[nodiscard]] State state() const;
    /// Returns why the machine has paused itself, and what to do before resume(): a disk cannot
    /// write (WriteErrors::stop). Returns nothing if it has not.
    [[nodiscard]] std::optional<Error> pause_reason() const;
    /// Returns which older snapshot of the area is damaged, although this machine could be restored
    /// from it; an empty string if none is.
    [[nodiscard]] const std::string& lost_snapshot() const;

    /// Starts the machine, or continues after pause(). Does nothing if it runs. Fails with usage if
    /// the run has ended. A first start that fails, because no thread can start or KVM refuses,
    /// ends the run as Outcome::Kind::failed.
    Status resume();
    /// Stops the vCPUs. Returns when none runs and no disk request is under way. Does nothing if
    /// the machine is paused. Fails with usage if the run has ended, and with busy if a disk does
    /// not finish its requests for 30 seconds; the machine then runs on.
    Status pause();
    /// Ends the run and returns how it ended, which may have been earlier. Within `timeout` it
    /// waits for a snapshot under way, then presses the power button, if the guest listens to it,
    /// and waits for the power-off. With 0 it ends the run at once.
    Outcome stop(std::chrono::milliseconds timeout = std::chrono::seconds(5));

    /// Waits until the run has ended and returns how. Returns nothing at the time limit.
    std::optional<Outcome> wait_ended(std::chrono::milliseconds timeout) const;
    /// Waits until the guest has reported READY through the test port, which the ledger guest does.
    /// Returns false at the time limit. Fails with usage if the run ends without it.
    Result<bool> wait_ready(std::chrono::milliseconds timeout);
    /// Waits for a line on the serial port in which an ECMAScript pattern is found, among the
    /// output that is still there (read_serial) and what follows. Returns the line without its end,
    /// or nothing at the time limit. An unfinished line counts, too, once it has matched for 50 ms.
    /// Fails with usage if the pattern is wrong, or if the run ends without such a line.
    Result<std::optional<std::string>> wait_line(const std::string& pattern, std::chrono::milliseconds timeout);

    /// Passes all output of the serial port to `receive`, from the oldest that is still there on,
    /// on a thread of its own. If `receive` is slow, the guest waits once 256 KiB are outstanding;
    /// no byte is lost. `receive` must not be empty and must not throw. It may call functions of
    /// this machine, and must not destroy or move it; a machine whose callback uses it must not be
    /// moved at all, since the callback has its old place. Fails with usage if there is a callback
    /// already, and with system if no thread can start.
    Status on_serial_output(std::function<void(std::string_view)> receive);
    /// Returns the serial output from `position` on: the number of bytes since the machine was
    /// made, 0 at first, then SerialOutput::next. Waits until there is some; returns an empty one
    /// at the time limit or if the run has ended. The newest 256 KiB are kept; older bytes are
    /// skipped.
    [[nodiscard]] SerialOutput read_serial(std::uint64_t position, std::chrono::milliseconds timeout = {}) const;
    /// Sends bytes to the serial port. Waits while the guest takes none. Returns how many it took
    /// before the time limit, and 0 if the run has ended.
    std::size_t send_serial(std::string_view bytes, std::chrono::milliseconds timeout = std::chrono::seconds(5));

    /// Writes a snapshot, and returns when it is on the disk. A paused machine stays paused. The
    /// guest runs meanwhile, except for SnapshotReport::pause (SnapshotMode). Disks are not in the
    /// snapshot: copy them while the machine is paused or stopped by AfterSnapshot.
    ///
    /// Fails with busy if another snapshot of this machine is under way, or a machine was restored
    /// from what the area holds; with usage if the run has ended; with invalid if the area is too
    /// small, or holds something else; with unsupported if `track` is asked for and this KVM tracks
    /// no writes, or if a disk is ephemeral; with system if a write fails; with cancelled,
    /// also by stop(). The area then holds what it held before, or says that it is incomplete, and
    /// the machine goes on.
    Result<SnapshotReport> snapshot(const Area& area, const SnapshotOptions& options = {});
    /// Makes the snapshot under way fail with cancelled, unless it is complete. Fails with usage if
    /// there is none.
    Status cancel_snapshot();

    /// Waits until the guest has executed an instruction and returns how long the start took.
    /// Returns nothing at the time limit, also if the run ends before.
    [[nodiscard]] std::optional<StartTimes> start_times(std::chrono::milliseconds timeout = std::chrono::seconds(1));
    [[nodiscard]] Statistics statistics() const;

    /// Return and change the balloon's size. A change waits while a snapshot has the guest stand
    /// still. The guest follows in its own time; the size is a
    /// multiple of 4 KiB. Fail with usage if the machine has no balloon, or the size is more than
    /// its memory.
    [[nodiscard]] Result<Balloon> balloon() const;
    Status set_balloon(std::uint64_t target_bytes);

private:
    struct Impl;
    explicit Machine(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace snapvm::embed
