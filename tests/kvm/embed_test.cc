// SPDX-License-Identifier: Apache-2.0
// The public interface (vmm/include/snapvm) on real machines. tests/install shows that it is enough
// for a program outside.
#include <snapvm/machine.h>

#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <thread>

#include "tests/kvm/harness.h"
#include "tests/support/child.h"
#include "tests/support/need.h"
#include "tests/support/result_matchers.h"

namespace snapvm::embed {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::fails;
using test::need;
using test::need_error;
using test::ok;

constexpr std::chrono::milliseconds kPatience = test::kPatience;

class Embed : public test::KvmTest {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        if (!IsSkipped()) {
            host_.emplace(need(Host::open()));
        }
    }
    [[nodiscard]] Area place(std::string_view name = "area") const { return {.path = area(name).path}; }
    [[nodiscard]] std::string file(std::string_view name, std::uintmax_t bytes) const {
        std::string path = area(name).path;
        std::ofstream(path).flush();
        std::filesystem::resize_file(path, bytes);
        return path;
    }
    static MachineConfig ledger(const std::string& options = "") {
        return {.kernel = "builtin:ledger", .command_line = "ws=1M " + options, .memory_bytes = 32 << 20};
    }
    Machine boot(const MachineConfig& config) {
        Machine machine = need(Machine::create(*host_, config));
        need(machine.resume());
        EXPECT_TRUE(need(machine.wait_ready(kPatience)));
        return machine;
    }
    /// Makes a snapshot of a machine that has not run.
    Area fresh_snapshot(const MachineConfig& config) {
        need(need(Machine::create(*host_, config)).snapshot(place()));
        return place();
    }
    /// Has the guest check its memory and end.
    static void expect_sound_end(Machine& machine) {
        EXPECT_EQ(machine.send_serial("q", kPatience), 1U);
        const std::optional<Outcome> outcome = machine.wait_ended(kPatience);
        ASSERT_TRUE(outcome.has_value());
        EXPECT_EQ(outcome->kind, Outcome::Kind::guest_exit) << outcome->name;
        EXPECT_EQ(outcome->exit_code, 0) << machine.read_serial(0).bytes;
    }
    /// Returns the number of threads that run vCPUs or callbacks.
    static int threads() {
        int count = 0;
        for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
            std::string name;
            std::getline(std::ifstream(task.path() / "comm"), name);
            count += name == "vcpu0" || name == "output" ? 1 : 0;
        }
        return count;
    }

    std::optional<Host> host_;
};

TEST_F(Embed, TheHostSaysWhatItOffers) {
    EXPECT_EQ(host_->facts().kvm_api_version, 12);
    EXPECT_GE(host_->facts().max_cpus, 1U);
    EXPECT_LE(host_->facts().max_cpus, 64U);
}

TEST_F(Embed, AGuestBootsIsSnapshotAndRestored) {
    Machine machine = need(Machine::create(*host_, ledger()));
    EXPECT_EQ(machine.state(), State::paused) << "it has not run yet";
    EXPECT_FALSE(machine.start_times(0ms).has_value());
    ASSERT_TRUE(ok(machine.resume()));
    EXPECT_EQ(machine.state(), State::running);
    EXPECT_EQ(need(machine.wait_line("^LEDGER READY", kPatience)), "LEDGER READY");
    EXPECT_TRUE(need(machine.wait_ready(0ms)));
    EXPECT_EQ(machine.start_times(kPatience)->map, 0us);

    const SnapshotReport report = need(machine.snapshot(place()));
    EXPECT_EQ(machine.state(), State::running);
    EXPECT_GT(report.pause, 0us);
    EXPECT_GE(report.total, report.pause);
    EXPECT_GE(report.rounds.size(), 1U);
    EXPECT_GE(report.pages.common, 256U) << "the ledger's working set";
    EXPECT_GT(report.pages.absent, 0U);
    EXPECT_GE(report.area_bytes, report.written_bytes);
    EXPECT_GT(report.written_bytes, 0U);
    EXPECT_TRUE(report.full);
    expect_sound_end(machine);
    EXPECT_EQ(machine.state(), State::ended);

    Machine clones[] = {need(Machine::restore(*host_, place())),
                        need(Machine::restore(*host_, place(), {.share_equal_pages = true}))};
    for (Machine& clone : clones) {
        EXPECT_EQ(clone.state(), State::paused);
        ASSERT_TRUE(ok(clone.resume()));
        const StartTimes times = clone.start_times(kPatience).value();
        EXPECT_GT(times.map, 0us);
        EXPECT_GE(times.state, times.map);
        EXPECT_EQ(times.total, times.state + times.first_run);
        EXPECT_TRUE(need(clone.wait_ready(0ms))) << "it was ready when it was saved";
        expect_sound_end(clone);
    }
}

TEST_F(Embed, WhatHasEndedStaysEnded) {
    Machine machine = boot(ledger());
    ASSERT_TRUE(ok(machine.pause()));
    EXPECT_EQ(machine.state(), State::paused);
    ASSERT_TRUE(ok(machine.pause()));
    EXPECT_FALSE(machine.wait_ended(-1ms).has_value());
    ASSERT_TRUE(ok(machine.resume()));
    EXPECT_EQ(machine.stop(0ms).kind, Outcome::Kind::stopped);
    EXPECT_EQ(machine.stop().name, "stopped");
    EXPECT_EQ(machine.wait_ended(0ms)->exit_code, 0);
    EXPECT_TRUE(fails(machine.resume(), ErrorKind::usage, "ended (stopped)"));
    EXPECT_TRUE(fails(machine.pause(), ErrorKind::usage, "ended (stopped)"));
    EXPECT_TRUE(fails(machine.snapshot(place()), ErrorKind::usage, "ended (stopped)"));
    EXPECT_TRUE(fails(machine.wait_line("never", kPatience), ErrorKind::usage, "no line of its output matches"));
    EXPECT_EQ(machine.send_serial("q", kPatience), 0U) << "it takes no input";
}

TEST_F(Embed, ErrorsKeepTheirKindCallObjectAndErrno) {
    MachineConfig config = ledger();
    config.kernel = "/no/such/kernel";
    const Error no_kernel = need_error(Machine::create(*host_, config));
    EXPECT_EQ(no_kernel.kind(), ErrorKind::system);
    EXPECT_EQ(no_kernel.code(), ENOENT);
    EXPECT_EQ(no_kernel.call(), "open");
    EXPECT_EQ(no_kernel.object(), "kernel /no/such/kernel");
    EXPECT_EQ(no_kernel.advice(), "check the path");
    EXPECT_EQ(no_kernel.message(), "open kernel /no/such/kernel: No such file or directory; check the path");
    config.kernel = file("zeros", 4096);
    EXPECT_TRUE(fails(Machine::create(*host_, config), ErrorKind::invalid));

    config = ledger();
    config.memory_bytes = 1;
    EXPECT_TRUE(fails(Machine::create(*host_, config), ErrorKind::usage, "1 bytes of memory"));
    config = ledger();
    config.networks = {{.id = "eth0", .tap = "t", .mac = "1"}};
    EXPECT_TRUE(fails(Machine::create(*host_, config), ErrorKind::usage, "MAC"));
    config = ledger();
    config.disks = {{.id = "root"}};
    EXPECT_TRUE(fails(Machine::create(*host_, config), ErrorKind::usage, "the path of disk root is missing"));

    EXPECT_TRUE(fails(Machine::restore(*host_, {}), ErrorKind::usage, "names no file"));
    EXPECT_TRUE(fails(Machine::restore(*host_, {.path = "/a", .offset = 1}), ErrorKind::usage, "multiple of 4096"));
    EXPECT_EQ(need_error(Machine::restore(*host_, place("missing"))).code(), ENOENT);
    EXPECT_TRUE(fails(Machine::restore(*host_, {.path = file("text", 1 << 20)}), ErrorKind::invalid));

    Machine machine = boot(ledger());
    EXPECT_EQ(need_error(machine.snapshot({.path = "/no/such/area"})).code(), ENOENT);
    EXPECT_TRUE(fails(machine.snapshot(place(), {.type = SnapshotType::diff}), ErrorKind::usage));
    EXPECT_TRUE(fails(machine.wait_line("(", 0ms), ErrorKind::usage));
    EXPECT_TRUE(fails(machine.cancel_snapshot(), ErrorKind::usage, "no snapshot"));
    EXPECT_TRUE(fails(machine.balloon(), ErrorKind::usage, "balloon"));
    expect_sound_end(machine);
}

TEST_F(Embed, ACrashIsReported) {
    Machine machine = boot(ledger());
    machine.send_serial("t");
    const Outcome outcome = machine.wait_ended(kPatience).value();
    EXPECT_EQ(outcome.kind, Outcome::Kind::triple_fault);
    EXPECT_EQ(outcome.exit_code, 4);
    EXPECT_EQ(outcome.name, "triple-fault");
    EXPECT_NE(outcome.crash_report.find("rip"), std::string::npos) << outcome.crash_report;
}

TEST_F(Embed, SnapshotOptionsAreKept) {
    Machine machine = boot(ledger());
    SnapshotReport report = need(machine.snapshot(place(), {.mode = SnapshotMode::stop, .track = true}));
    EXPECT_TRUE(report.full);
    EXPECT_EQ(report.rounds.size(), 1U);
    report = need(machine.snapshot(place(), {.type = SnapshotType::diff, .then = AfterSnapshot::pause}));
    EXPECT_FALSE(report.full);
    EXPECT_EQ(machine.state(), State::paused);
    report = need(machine.snapshot(place(), {.type = SnapshotType::full, .then = AfterSnapshot::stop}));
    EXPECT_TRUE(report.full);
    EXPECT_EQ(machine.wait_ended(0ms)->kind, Outcome::Kind::stopped);
}

TEST_F(Embed, ASnapshotCanBeCalledOff) {
    Machine machine = boot(ledger("rate=0"));
    std::atomic<bool> over = false;
    std::thread canceller([&] {
        while (!over) {
            (void)machine.cancel_snapshot();
            std::this_thread::yield();
        }
    });
    std::optional<ErrorKind> kind;
    EXPECT_TRUE(eventually([&] {
        const auto report = machine.snapshot(place());
        kind = report ? std::optional<ErrorKind>() : report.error().kind();
        return kind.has_value();
    }));
    over = true;
    canceller.join();
    EXPECT_EQ(kind, ErrorKind::cancelled);
    expect_sound_end(machine);
}

TEST_F(Embed, AnAreaStaysAsLongAsAMachineIsRestoredFromIt) {
    Machine machine = boot(ledger());
    need(machine.snapshot(place()));
    {
        const Machine clone = need(Machine::restore(*host_, place()));
        EXPECT_TRUE(fails(machine.snapshot(place()), ErrorKind::busy));
    }
    EXPECT_TRUE(ok(machine.snapshot(place())));
}

TEST_F(Embed, RestoresWithOtherPlacesOnTheHost) {
    MachineConfig config = ledger();
    config.disks = {{.id = "root", .path = file("disk", 1 << 20)}, {.id = "seed", .path = file("seed", 4096)}};
    config.vsock = Vsock{.cid = 7, .socket = area("v.sock").path};
    const Area saved = fresh_snapshot(config);
    const Area copy = place("copy");
    std::filesystem::copy_file(saved.path, copy.path);
    EXPECT_TRUE(fails(Machine::restore(*host_, copy), ErrorKind::usage, "--set disk.root.path=")) << "is not recorded";
    EXPECT_TRUE(ok(Machine::restore(*host_, copy, {.trust_paths = true})));
    const Machine first = need(Machine::restore(*host_, saved));
    EXPECT_TRUE(fails(Machine::restore(*host_, saved), ErrorKind::busy, "disk")) << "the first has its disks";
    const std::map<std::string, std::string> disks = {{"root", file("other", 1 << 20)}, {"seed", file("more", 4096)}};
    const std::string socket = area("w.sock").path;
    EXPECT_TRUE(ok(Machine::restore(*host_, saved, {.disks = disks, .vsock_socket = socket, .vsock_cid = 8})));
    EXPECT_TRUE(fails(Machine::restore(*host_, saved, {.disks = {{"data", "/x"}}}), ErrorKind::usage,
                      "the machine in the snapshot has no disk data"));
    EXPECT_TRUE(fails(Machine::restore(*host_, saved, {.taps = {{"eth0", "t"}}}), ErrorKind::usage,
                      "no network interface eth0"));
    EXPECT_TRUE(fails(Machine::restore(*host_, saved, {.vsock_cid = 1}), ErrorKind::usage, "cid 1 is reserved"));
}

TEST_F(Embed, TheBalloonFollowsTheHost) {
    MachineConfig config = ledger("balloon=8M echo=1");
    config.balloon_bytes = 0;
    config.rng = true;
    Machine machine = boot(config);
    EXPECT_EQ(need(machine.balloon()).target_bytes, 0U);
    ASSERT_TRUE(ok(machine.set_balloon(4 << 20)));
    EXPECT_EQ(need(machine.balloon()).target_bytes, 4U << 20);
    EXPECT_TRUE(fails(machine.set_balloon(1ULL << 40), ErrorKind::usage));
}

TEST_F(Embed, StatisticsCount) {
    Machine machine = boot(ledger("hz=0 paused=1"));
    machine.send_serial("m");
    EXPECT_TRUE(eventually([&] { return machine.statistics().marks == 1; }));
    const Statistics statistics = machine.statistics();
    EXPECT_TRUE(statistics.ready);
    EXPECT_GT(statistics.exits, 0U);
    EXPECT_GT(statistics.uptime, 0us);
    EXPECT_EQ(statistics.serial_bytes, machine.read_serial(0).bytes.size());
    EXPECT_TRUE(statistics.networks.empty());
}

TEST_F(Embed, SerialOutputIsReadFromAnyPosition) {
    Machine machine = boot(ledger("hz=0 paused=1"));
    EXPECT_TRUE(need(machine.wait_line("READY", kPatience)).has_value());
    const SerialOutput all = machine.read_serial(0);
    EXPECT_EQ(all.bytes.size(), all.next);
    EXPECT_EQ(machine.read_serial(all.next, 1ms).bytes, "") << "the guest is silent";
    machine.send_serial("b");
    EXPECT_EQ(machine.read_serial(all.next, kPatience).bytes, ".");
    EXPECT_EQ(machine.read_serial(all.next).next, all.next + 1);
    machine.stop(0ms);
    const auto began = std::chrono::steady_clock::now();
    EXPECT_EQ(machine.read_serial(all.next + 1, 1h).bytes, "") << "no more comes";
    EXPECT_LT(std::chrono::steady_clock::now() - began, kPatience);
    EXPECT_EQ(machine.read_serial(all.next, 1h).bytes, ".");
}

TEST_F(Embed, ACallbackGetsAllOutputAndMayUseTheMachine) {
    std::string seen;
    std::string ring;
    {
        Machine machine = need(Machine::create(*host_, ledger("beat=1")));
        const auto receive = [&](std::string_view bytes) {
            EXPECT_NE(machine.state(), State::paused);
            EXPECT_GE(machine.statistics().serial_bytes, bytes.size());
            seen += bytes;
        };
        ASSERT_TRUE(ok(machine.on_serial_output(receive)));
        EXPECT_TRUE(fails(machine.on_serial_output(receive), ErrorKind::usage, "a callback already"));
        need(machine.resume());
        EXPECT_TRUE(need(machine.wait_ready(kPatience)));
        expect_sound_end(machine);
        ring = machine.read_serial(0).bytes;
    }
    EXPECT_EQ(seen, ring);
    EXPECT_NE(seen.find("LEDGER OK"), std::string::npos) << seen;
}

TEST_F(Embed, DestroyingARunningMachineEndsItsThreadsAndItsCallback) {
    std::promise<void> entered;
    std::promise<void> release;
    std::atomic<unsigned> calls = 0;
    auto machine = std::make_unique<Machine>(need(Machine::create(*host_, ledger("beat=1"))));
    need(machine->on_serial_output([&](std::string_view) {
        if (calls++ == 0) {
            entered.set_value();
            release.get_future().wait();
        }
    }));
    need(machine->resume());
    entered.get_future().wait();
    EXPECT_EQ(threads(), 2);
    auto destroyed = std::async(std::launch::async, [&] { machine.reset(); });
    EXPECT_EQ(destroyed.wait_for(50ms), std::future_status::timeout) << "the callback has not returned";
    release.set_value();
    destroyed.get();
    const unsigned last = calls;
    EXPECT_TRUE(eventually([] { return threads() == 0; })) << "/proc shows a joined thread a moment longer";
    EXPECT_EQ(calls, last);
}

TEST_F(Embed, AnotherMachineTakesThePlaceWhenTheCallbackIsOver) {
    Machine machine = boot(ledger());
    // The ledger says that it is ready before it writes the line that the callback gets.
    need(machine.wait_line("^LEDGER READY", kPatience));
    std::promise<void> assigning;
    std::optional<State> seen;
    ASSERT_TRUE(ok(machine.on_serial_output([&](std::string_view) {
        if (!seen) {
            assigning.get_future().wait();
            std::this_thread::sleep_for(50ms);
            seen = machine.state();
        }
    })));
    Machine other = need(Machine::create(*host_, ledger()));
    assigning.set_value();
    machine = std::move(other);
    ASSERT_TRUE(seen.has_value());
    EXPECT_NE(*seen, State::paused) << "that is the other one's";
    EXPECT_EQ(machine.state(), State::paused);
}

TEST_F(Embed, AFirstStartThatFailsEndsTheRun) {
    const int code = test::in_child([&] {
        auto machine = Machine::create(*host_, ledger());
        if (!machine || !test::refuse_call(SYS_clone3, EAGAIN)) {
            return 1;
        }
        const Status started = machine->resume();
        if (started || started.error().code() != EAGAIN) {
            return 2;
        }
        const std::optional<Outcome> outcome = machine->wait_ended(0ms);
        const bool failed = outcome && outcome->kind == Outcome::Kind::failed;
        return failed && fails(machine->resume(), ErrorKind::usage) && machine->state() == State::ended ? 0 : 3;
    });
    EXPECT_EQ(code, 0);
}

TEST_F(Embed, AMachineMovesAndOutlivesItsHostHandle) {
    std::vector<Machine> machines;
    machines.push_back(boot(ledger()));
    machines.push_back(boot(ledger()));
    host_.reset();
    machines[0] = std::move(machines[1]);
    machines.pop_back();
    EXPECT_TRUE(eventually([] { return threads() == 1; })) << "the machine that was there has ended";
    expect_sound_end(machines[0]);
}

}  // namespace
}  // namespace snapvm::embed
