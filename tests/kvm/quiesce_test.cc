// SPDX-License-Identifier: Apache-2.0
// Pauses and snapshots of a machine whose disk answers late or never.
#include <cerrno>
#include <future>
#include <thread>

#include "tests/kvm/rig.h"
#include "tests/kvm/tiny_virtio.h"
#include "tests/support/blk_rig.h"
#include "vmm/control/machine_service.h"
#include "vmm/platform/platform.h"

// Words in the data page: 0: requests answered; 1: requests allowed (set by the test); 2: a counter
// that shows that the guest runs; 3: whether the guest writes to 1,024 pages in turn while it waits
// for an answer (set by the test); 4: how often it has written.
SNAPVM_TINY_CODE(drive_disk, SNAPVM_TINY_SET_UP_VIRTIO R"(
    xor %ecx, %ecx
    xor %edx, %edx
    mov $0xd0000050, %edi
3:  incq 16(%rbx)
    cmp 8(%rbx), %rcx
    jae 3b
    inc %ecx
    mov %cx, 0x91002
    movl $0, (%rdi)
4:  incq 16(%rbx)
    cmp %cx, 0x92002
    je 5f
    cmpq $0, 24(%rbx)
    je 4b
    add $0x1000, %edx
    and $0x3ff000, %edx
    incq 0x200000(%rdx)
    incq 32(%rbx)
    jmp 4b
5:  incq (%rbx)
    jmp 3b
)");

namespace snapvm::test {
namespace {

constexpr std::uint64_t kPages = 1024;
constexpr std::uint64_t kFew = 64;  // pages written besides those
enum Word : std::uint64_t { kAnswered, kAllowed, kAlive, kWrite, kWrites };

class QuiesceMachine : public KvmTest {
protected:
    void boot(std::chrono::milliseconds limit = 1h, WriteErrors write_errors = WriteErrors::report) {
        MachineConfig config;
        config.memory_bytes = 8ULL << 20;
        config.kernel = "tiny";
        config.pages = PagePolicy::small_pages;
        config.machine_id = need(Uuid::random());
        config.devices.disks = {{.id = "slow", .path = "fake", .write_errors = write_errors}};
        HostSetup host;
        host.drain_limit = limit;
        host.openers.disk = [this](const DiskConfig&) -> Result<std::unique_ptr<Disk>> {
            auto disk = std::make_unique<FakeDisk>(1 << 20);
            disk_ = disk.get();
            return disk;
        };
        machine_ = tiny_machine(system(), {.code = drive_disk}, config, host);
        GuestMemory& memory = machine_->memory();
        DriverQueue queue(memory, Gpa{0x90000}, 8);
        // A read of sector 0: header, a page of data, the status.
        if (write_errors == WriteErrors::stop) {  // a write of sector 0
            need(memory.store(Gpa{0xA0000}, std::uint32_t{1}));
        }
        const std::uint16_t direction = write_errors == WriteErrors::stop ? 0 : DriverQueue::kWrite;
        queue.write_descriptor(0, Gpa{0xA0000}, 16, DriverQueue::kNext, 1);
        queue.write_descriptor(1, Gpa{0xA1000}, kPageSize, static_cast<std::uint16_t>(DriverQueue::kNext | direction),
                               2);
        queue.write_descriptor(2, Gpa{0xA2000}, 1, DriverQueue::kWrite, 0);
        tiny::write_registers(memory, platform::kVirtioBase, 0, {queue});
        service_ = std::make_unique<MachineService>(*machine_, "slow");
        need(machine_->resume());
        wait_for(kAlive, 1);
    }
    [[nodiscard]] std::uint64_t get(Word which) const {
        return need(machine_->memory().load<std::uint64_t>(tiny::kData + which * 8));
    }
    void set(Word which, std::uint64_t value) { need(machine_->memory().store(tiny::kData + which * 8, value)); }
    void wait_for(Word which, std::uint64_t more) {
        const std::uint64_t enough = get(which) + more;
        for (const auto until = soon(); get(which) < enough;) {
            ASSERT_LT(SteadyClock::now(), until) << "the guest stands still";
            std::this_thread::sleep_for(100us);
        }
    }
    /// Makes the guest wait for its disk from here on, until answer() is called.
    void begin_request() {
        set(kAllowed, ++requests_);
        for (const auto until = soon(); disk_->in_flight() == 0;) {
            ASSERT_LT(SteadyClock::now(), until);
            std::this_thread::sleep_for(100us);
        }
    }
    void answer() { disk_->finish_one(); }
    /// Expects that the machine still works: its requests are answered.
    void expect_goes_on() {
        for (int i = 0; i < 3; ++i) {
            ASSERT_NO_FATAL_FAILURE(begin_request());
            answer();
            for (const auto until = soon(); get(kAnswered) != requests_;) {
                ASSERT_LT(SteadyClock::now(), until);
                std::this_thread::sleep_for(100us);
            }
        }
        ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 10));
    }
    void wait_for_own_pause() {
        for (const auto until = soon(); !machine_->pause_reason() || machine_->state() != Machine::State::paused;) {
            ASSERT_LT(SteadyClock::now(), until) << "the machine does not pause";
            std::this_thread::sleep_for(1ms);
        }
    }
    void wait_for_phase(SnapshotPhase phase) {
        for (const auto until = soon(); service_->snapshot_status().phase != phase;) {
            ASSERT_LT(SteadyClock::now(), until) << "in phase " << name_of(*service_->snapshot_status().phase);
            std::this_thread::sleep_for(1ms);
        }
    }
    SnapshotRequest request(SnapshotMode mode) {
        SnapshotRequest request;
        request.area = area();
        request.mode = mode;
        request.live.max_pause = 10us;  // allows a few pages
        return request;
    }

    std::uint64_t requests_ = 0;
    FakeDisk* disk_ = nullptr;
    std::unique_ptr<Machine> machine_;
    std::unique_ptr<MachineService> service_;
};

class QuiesceMachineModes : public QuiesceMachine, public ::testing::WithParamInterface<SnapshotMode> {};

TEST_P(QuiesceMachineModes, ASnapshotWaitsForTheDiskWhileTheGuestRunsAndOthersAreAnswered) {
    boot();
    begin_request();
    need(service_->start_snapshot(request(GetParam())));
    ASSERT_NO_FATAL_FAILURE(wait_for_phase(SnapshotPhase::quiescing));
    set(kWrite, 1);
    ASSERT_NO_FATAL_FAILURE(wait_for(kWrites, 2 * kPages));
    EXPECT_EQ(machine_->state(), Machine::State::running);
    EXPECT_EQ(service_->stats().state, ServiceState::running);
    EXPECT_EQ(service_->snapshot_status().phase, SnapshotPhase::quiescing);
    answer();
    ASSERT_NO_FATAL_FAILURE(wait_for_phase(SnapshotPhase::done));
    const SnapshotStatus status = service_->snapshot_status();
    ASSERT_TRUE(status.report.has_value()) << status.error->message();
    if (GetParam() != SnapshotMode::stop) {
        const auto& rounds = status.report->rounds;
        ASSERT_GE(rounds.size(), 3U);
        EXPECT_LE(rounds.back().dirty_pages, kFew) << "what it wrote while it waited";
        EXPECT_GE(rounds[rounds.size() - 2].dirty_pages, kPages);
    }
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
}

TEST_P(QuiesceMachineModes, ASnapshotIsCalledOffWhileTheDiskIsSilent) {
    boot();
    begin_request();
    need(service_->start_snapshot(request(GetParam())));
    ASSERT_NO_FATAL_FAILURE(wait_for_phase(SnapshotPhase::quiescing));
    need(service_->cancel_snapshot());
    ASSERT_NO_FATAL_FAILURE(wait_for_phase(SnapshotPhase::done));
    const SnapshotStatus status = service_->snapshot_status();
    ASSERT_TRUE(status.error.has_value());
    EXPECT_EQ(status.error->kind(), ErrorKind::cancelled);
    ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 1000));
    answer();
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
    need(service_->snapshot(request(GetParam())));
}

TEST_P(QuiesceMachineModes, ADeadDiskEndsItAndTheGuestGoesOn) {
    boot(20ms);
    begin_request();
    const Error error = need_error(service_->snapshot(request(GetParam())));
    EXPECT_EQ(error.kind(), ErrorKind::busy);
    EXPECT_NE(error.message().find("disks"), std::string::npos) << error.message();
    EXPECT_EQ(machine_->state(), Machine::State::running);
    ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 1000));
    answer();
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
}

std::string mode_name(const ::testing::TestParamInfo<SnapshotMode>& test) {
    constexpr std::array kNames = {"Live", "Precopy", "Stop"};
    return kNames[static_cast<std::size_t>(test.param)];
}

INSTANTIATE_TEST_SUITE_P(Modes, QuiesceMachineModes,
                         ::testing::Values(SnapshotMode::live, SnapshotMode::precopy, SnapshotMode::stop), mode_name);

TEST_F(QuiesceMachine, APauseWaitsForTheDiskWhileTheGuestRuns) {
    boot();
    begin_request();
    auto pausing = std::async(std::launch::async, [&] { return machine_->pause(); });
    ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 1000));
    EXPECT_EQ(machine_->state(), Machine::State::running);
    answer();
    need(pausing.get());
    EXPECT_EQ(machine_->state(), Machine::State::paused);
    const std::uint64_t alive = get(kAlive);
    std::this_thread::sleep_for(2ms);
    EXPECT_EQ(get(kAlive), alive);
    need(machine_->resume());
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
}

TEST_F(QuiesceMachine, APauseGivesUpOnADeadDisk) {
    boot(20ms);
    begin_request();
    EXPECT_EQ(need_error(machine_->pause()).kind(), ErrorKind::busy);
    EXPECT_EQ(need_error(machine_->freeze()).kind(), ErrorKind::busy);
    EXPECT_EQ(machine_->state(), Machine::State::running);
    ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 1000));
    answer();
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
    need(machine_->pause());
}

// A pause must not wait for the disk of a machine that has ended.
TEST_F(QuiesceMachine, TheEndEndsAPauseThatWaits) {
    boot();
    begin_request();
    auto pausing = std::async(std::launch::async, [&] { return machine_->pause(); });
    ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 1000));
    machine_->end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    need(pausing.get());
    EXPECT_EQ(need_error(machine_->freeze()).kind(), ErrorKind::usage);
    answer();
}

class FullDiskMachine : public QuiesceMachine {
protected:
    /// Makes the guest's next write fail, and waits until the machine has paused itself.
    void fill() {
        ASSERT_NO_FATAL_FAILURE(begin_request());
        disk_->finish_one(ENOSPC);
        ASSERT_NO_FATAL_FAILURE(wait_for_own_pause());
    }
    void expect_answered() {
        for (const auto until = soon(); disk_->in_flight() == 0;) {
            ASSERT_LT(SteadyClock::now(), until) << "the write is not tried again";
            std::this_thread::sleep_for(1ms);
        }
        answer();
        for (const auto until = soon(); get(kAnswered) != requests_;) {
            ASSERT_LT(SteadyClock::now(), until);
            std::this_thread::sleep_for(1ms);
        }
        need(machine_->pause());  // the devices' thread has written it
        EXPECT_EQ(need(machine_->memory().load<std::uint8_t>(Gpa{0xA2000})), 0U) << "the guest has seen an error";
        need(machine_->resume());
    }
};

TEST_F(FullDiskMachine, PausesItselfAndTriesAgainAtItsResume) {
    boot(1h, WriteErrors::stop);
    std::promise<std::string> told;
    machine_->on_own_pause([&](const Error& why) { told.set_value(why.message()); });
    ASSERT_NO_FATAL_FAILURE(fill());
    EXPECT_NE(told.get_future().get().find("no space is left"), std::string::npos);
    EXPECT_EQ(service_->state(), ServiceState::paused);
    EXPECT_NE(service_->stats().pause_reason.find("no space is left"), std::string::npos);
    machine_->on_own_pause({});
    const std::uint64_t alive = get(kAlive);
    std::this_thread::sleep_for(2ms);
    EXPECT_EQ(get(kAlive), alive) << "it runs";
    need(machine_->resume());
    EXPECT_FALSE(machine_->pause_reason().has_value());
    // There is still no room.
    for (const auto until = soon(); disk_->in_flight() == 0;) {
        ASSERT_LT(SteadyClock::now(), until);
        std::this_thread::sleep_for(1ms);
    }
    disk_->finish_one(ENOSPC);
    ASSERT_NO_FATAL_FAILURE(wait_for_own_pause());
    need(machine_->resume());
    ASSERT_NO_FATAL_FAILURE(expect_answered());
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
}

TEST_F(FullDiskMachine, AStopEndsItAtOnce) {
    boot(1h, WriteErrors::stop);
    ASSERT_NO_FATAL_FAILURE(fill());
    const auto before = SteadyClock::now();
    need(service_->stop({.force = false, .timeout = 1h}));
    EXPECT_LT(SteadyClock::now() - before, 1min);
    EXPECT_EQ(get(kAnswered), requests_ - 1);
}

TEST_F(FullDiskMachine, ItsSnapshotHasTheWrite) {
    boot(1h, WriteErrors::stop);
    ASSERT_NO_FATAL_FAILURE(fill());
    need(service_->snapshot(request(SnapshotMode::stop)));
    EXPECT_TRUE(machine_->pause_reason().has_value()) << "it stays paused";
    service_.reset();
    machine_.reset();
    HostSetup host;
    host.openers.disk = [this](const DiskConfig&) -> Result<std::unique_ptr<Disk>> {
        auto disk = std::make_unique<FakeDisk>(1 << 20);
        disk_ = disk.get();
        return disk;
    };
    machine_ = restore(area(), host);
    EXPECT_EQ(machine_->config().devices.disks[0].write_errors, WriteErrors::stop);
    need(machine_->resume());
    ASSERT_NO_FATAL_FAILURE(expect_answered());
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
    ASSERT_NO_FATAL_FAILURE(fill());
}

// Each holder keeps the devices quiesced until it releases them, whatever the others do meanwhile.
TEST_F(QuiesceMachine, DevicesAreHeldAsLongAsAnybodyHoldsThem) {
    boot();
    const auto check_cancelled = [] { return Status{}; };
    need(machine_->quiesce(check_cancelled));
    need(machine_->freeze());
    machine_->thaw();
    need(machine_->pause());
    need(machine_->resume());
    need(machine_->quiesce(check_cancelled));
    machine_->unquiesce();
    set(kAllowed, ++requests_);
    ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 1000));  // the guest has made its request and waits
    std::this_thread::sleep_for(10ms);
    EXPECT_EQ(disk_->in_flight(), 0U);
    machine_->unquiesce();
    for (const auto until = soon(); disk_->in_flight() == 0;) {
        ASSERT_LT(SteadyClock::now(), until);
        std::this_thread::sleep_for(1ms);
    }
    answer();
    ASSERT_NO_FATAL_FAILURE(wait_for(kAlive, 10));
    ASSERT_NO_FATAL_FAILURE(expect_goes_on());
}

}  // namespace
}  // namespace snapvm::test
