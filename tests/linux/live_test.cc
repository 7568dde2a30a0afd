// SPDX-License-Identifier: Apache-2.0
// Snapshots of a Linux at work: memory, processes, timers, a file system and the network are under
// load at that moment.
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <random>
#include <sstream>
#include <thread>

#include "tests/linux/host_streams.h"
#include "tests/linux/linux_fixture.h"

namespace snapvm::test {
namespace {

/// The work that `guest-tool load` has done, by kind.
struct Work {
    std::uint64_t steps = 0;
    std::uint64_t forks = 0;
    std::uint64_t sleeps = 0;
    std::uint64_t ticks = 0;

    [[nodiscard]] bool all_beyond(const Work& other) const {
        return steps > other.steps && forks > other.forks && sleeps > other.sleeps && ticks > other.ticks;
    }
};

std::uint64_t number_after(const std::string& text, std::string_view key) {
    const std::size_t at = text.find(key);
    return at == std::string::npos ? 0 : std::stoull(text.substr(at + key.size()));
}

double host_time() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// Seconds by which the guest's clock is ahead of the host's. It is a range, because asking takes
/// time. It is not zero: a kernel counts ticks until it has its clock source, and loses many if KVM
/// emulates kernel mode.
struct ClockLead {
    double guest_time = 0;  ///< seconds
    double least = 0;
    double most = 0;
};

ClockLead clock_lead(LinuxGuest& guest) {
    const double asked = host_time();
    const double guest_time = std::stod(guest.output("echo $EPOCHREALTIME"));
    return {guest_time, guest_time - host_time(), guest_time - asked};
}

/// A guest that was ended by a snapshot.
struct Stopped {
    AreaPath area;
    ClockLead clock;  ///< before the snapshot
    double began = 0;  ///< host times
    double ended = 0;
};

class LinuxLive : public LinuxTest {
protected:
    // Without this the stream's thread would wait for the guest, and the test's failure would not
    // be shown.
    ~LinuxLive() override {
        enough_ = true;
        if (const int stream = stream_; stream >= 0) {
            ::shutdown(stream, SHUT_RDWR);
        }
    }
    [[nodiscard]] bool has_network() const { return network().reason().empty(); }
    [[nodiscard]] AreaPath area(int number) const { return {scratch_.file("area" + std::to_string(number)), 0}; }
    /// Makes a snapshot into area `number` after `delay`.
    [[nodiscard]] Stopped stop(LinuxGuest& guest, int number, std::chrono::microseconds delay = {}) const {
        Stopped stopped{.area = area(number), .clock = clock_lead(guest)};
        std::this_thread::sleep_for(delay);
        stopped.began = host_time();
        (void)guest.snapshot_and_stop(stopped.area);
        stopped.ended = host_time();
        return stopped;
    }
    /// Restores the guest. Its clock must go on with the host's, or from where it was.
    [[nodiscard]] LinuxGuest restore(const Stopped& stopped, GapMode gap) const {
        constexpr double kDrift = 0.5;  // seconds: a clock is not that much slower or faster in some minutes
        const double asked = host_time();
        LinuxGuest guest = LinuxGuest::restore(stopped.area, places(), gap);
        const double runs = host_time();
        const ClockLead clock = clock_lead(guest);
        const bool hidden = gap == GapMode::hidden;
        EXPECT_GE(clock.guest_time, stopped.clock.guest_time);
        EXPECT_GT(clock.most, stopped.clock.least - (hidden ? runs - stopped.began : 0) - kDrift);
        EXPECT_LT(clock.least, stopped.clock.most - (hidden ? asked - stopped.ended : 0) + kDrift);
        return guest;
    }

    /// Sets a guest to work. With a network it also has an endless stream to the host. All work has
    /// pauses, so that a shell gets time if KVM emulates kernel mode.
    void load(LinuxGuest& guest) {
        mount_disk(guest);
        (void)guest.output("head -c 40000 /bin/busybox > /run/model");
        (void)guest.start(
            "i=0; while [ ! -e /run/enough ]; do i=$((i+1)); { echo $i; cat /run/model; } > /mnt/new && sync && "
            "mv /mnt/new /mnt/file$((i%2)) || break; read -t 1 -r line <> /run/never; done; echo written $i",
            "/run/files");
        if (has_network()) {
            give_address(guest);
            door_.emplace(HostDoor::at_tcp(7000));
            stream_fault_ = std::async(std::launch::async, [this] { return fault_of_stream(door_->accept()); });
            (void)guest.start(std::string("guest-tool tcp-send ") + kHostAddress + " 7000 1000000000000",
                              "/run/stream");
        }
        load_ = guest.start("exec guest-tool load forever 1 64", "/run/verdict");
        guest.wait_for("RUNNING", "/run/load");
    }
    static Work work(LinuxGuest& guest) {
        const std::string line = guest.output("read -r line < /run/load; echo $line");
        return {number_after(line, "steps="), number_after(line, "forks="), number_after(line, "sleeps="),
                number_after(line, "ticks=")};
    }
    /// Expects that every kind of work goes on.
    static void expect_work_goes_on(LinuxGuest& guest) {
        const Work before = work(guest);
        EXPECT_TRUE(eventually([&] { return work(guest).all_beyond(before); }))
            << guest.output("cat /run/load /run/verdict");
    }
    /// Expects that the stream goes on after all restores. Nothing may be lost or repeated.
    void expect_stream_goes_on() {
        const std::uint64_t before = stream_bytes_;
        EXPECT_TRUE(eventually([&] { return stream_bytes_ > before + 20'000; }));
    }
    /// Ends the stream and returns its fault.
    std::string end_of_stream() {
        enough_ = true;
        return stream_fault_.get();
    }
    /// Ends all work, and expects that files and disk are sound.
    void expect_sound_end(LinuxGuest& guest) {
        (void)guest.output(": > /run/enough; kill " + load_);
        guest.wait_for("LOAD", "/run/verdict");
        EXPECT_TRUE(guest.output("cat /run/verdict").starts_with("LOAD OK")) << guest.output("cat /run/verdict");
        guest.wait_for("written", "/run/files");
        EXPECT_EQ(
            guest.output(
                "for file in /mnt/file*; do tail -n +2 $file | cmp - /run/model || echo $file; done; umount /mnt"),
            "");
        EXPECT_EQ(guest.trouble(), "");
        guest.machine().end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
        EXPECT_EQ(file_system_faults(places().disk), "");
    }

private:
    std::string fault_of_stream(const HostStream& stream) {
        stream_ = stream.fd();
        std::uint64_t state = 1;  // as guest-tool makes it
        while (!enough_) {
            const std::string bytes = stream.receive(8192);
            if (bytes.size() != 8192) {
                stream_ = -1;
                return "it ended";
            }
            for (std::size_t at = 0; at < bytes.size(); at += sizeof state) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if (std::memcmp(&bytes[at], &state, sizeof state) != 0) {
                    stream_ = -1;
                    return "wrong at " + std::to_string(stream_bytes_ + at);
                }
            }
            stream_bytes_ += bytes.size();
            std::this_thread::sleep_for(200ms);  // reads slowly, so that the guest has time for other work
        }
        stream_ = -1;
        return "";
    }

    std::string load_;
    std::optional<HostDoor> door_;
    std::atomic<bool> enough_ = false;
    std::atomic<int> stream_ = -1;
    std::atomic<std::uint64_t> stream_bytes_ = 0;
    std::future<std::string> stream_fault_;
};

// An open fault: on a host that emulates kernel mode, 2 of 7 runs got no answer from the guest's
// shell after the first restore. The commands before the restore and a failed run's log show no
// error. Other hosts have not shown it.
TEST_F(LinuxLive, WorkGoesOnAfterARestore) {
    LinuxGuest guest = restore_booted(GapMode::seen);
    load(guest);
    const HostDoor waiting = HostDoor::at_vsock(places().vsock, 5000);
    (void)guest.start("guest-tool vsock-send 2 5000 hello", "/run/vsock");
    const HostStream half_open = waiting.accept();
    EXPECT_EQ(half_open.receive_all(), "hello");
    const Stopped stopped = stop(guest, 0);
    std::this_thread::sleep_for(3s);  // more time than asking takes
    const std::string disk_then = scratch_.file("disk-then");
    copy_disk(places().disk, disk_then);

    // One restore shows the time that has passed meanwhile.
    {
        LinuxGuest restored = restore(stopped, GapMode::seen);
        restored.wait_for_log("crng reseeded due to virtual machine fork");
        // The connection is gone. A recv() that waited in the snapshot says "Connection reset by
        // peer", one that begins after the restore "Transport endpoint is not connected".
        restored.wait_for("recv: ", "/run/vsock");
        expect_work_goes_on(restored);
        if (has_network()) {
            expect_stream_goes_on();
            EXPECT_EQ(end_of_stream(), "");
            EXPECT_TRUE(ping(kGuestAddress));
        }
        expect_sound_end(restored);
    }

    // One restore hides it.
    copy_disk(disk_then, places().disk);
    LinuxGuest restored = restore(stopped, GapMode::hidden);
    expect_work_goes_on(restored);
    EXPECT_EQ(restored.trouble(), "");
}

// SNAPVM_TEST_MOMENTS is the number of snapshots. Each is of the machine that was restored from the
// one before.
TEST_F(LinuxLive, AnyMomentWillDo) {
    const char* count = std::getenv("SNAPVM_TEST_MOMENTS");
    const long moments = count != nullptr ? std::atol(count) : 2;
    std::mt19937 random(20240607);
    LinuxGuest guest = restore_booted();
    load(guest);
    for (long moment = 0; moment < moments; ++moment) {
        SCOPED_TRACE("snapshot " + std::to_string(moment));
        const Stopped stopped =
            stop(guest, static_cast<int>(moment % 2), std::chrono::microseconds(random() % 300'000));
        guest = restore(stopped, random() % 2 == 0 ? GapMode::hidden : GapMode::seen);
        expect_work_goes_on(guest);
        if (has_network()) {
            expect_stream_goes_on();
        }
        ASSERT_EQ(guest.trouble(), "");
        ASSERT_FALSE(HasFailure());
    }
    if (has_network()) {
        EXPECT_EQ(end_of_stream(), "");
    }
    expect_sound_end(guest);
}

}  // namespace
}  // namespace snapvm::test
