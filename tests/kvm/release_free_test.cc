// SPDX-License-Identifier: Apache-2.0
// A guest of a few instructions drives a balloon. No snapshot contains its free memory, and the
// guest gets that memory back after the snapshot and after restores.
#include <thread>

#include "tests/kvm/rig.h"
#include "tests/kvm/tiny_virtio.h"
#include "vmm/control/machine_service.h"
#include "vmm/control/machine_source.h"
#include "vmm/platform/platform.h"

// Words in the data page: 0: a counter that shows that the guest runs; 1: pages that its balloon
// holds, from page 0x300 on. The guest polls the configuration without interrupts, moves one page
// at a time, and answers each request for statistics.
SNAPVM_TINY_CODE(drive_balloon, SNAPVM_TINY_SET_UP_VIRTIO R"(
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    mov $1, %r11d
    mov $0xd0000000, %edi
    mov %r11w, 0x97002
    movl $2, 0x50(%rdi)
1:  incq (%rbx)
    mov %r8, 8(%rbx)
    cmp %r11w, 0x98002
    jne 2f
    inc %r11d
    mov %r11w, 0x97002
    movl $2, 0x50(%rdi)
2:  mov 0x100(%rdi), %eax
    cmp %r8d, %eax
    je 1b
    jb 4f
    lea 0x300(%r8), %eax
    mov %eax, 0xa0000
    inc %r9d
    mov %r9w, 0x91002
    movl $0, 0x50(%rdi)
3:  cmp %r9w, 0x92002
    jne 3b
    inc %r8d
    jmp 6f
4:  lea 0x2ff(%r8), %eax
    mov %eax, 0xa0000
    inc %r10d
    mov %r10w, 0x94002
    movl $1, 0x50(%rdi)
5:  cmp %r10w, 0x95002
    jne 5b
    dec %r8d
6:  mov %r8, 8(%rbx)
    mov %r8d, 0x104(%rdi)
    jmp 1b
)");

namespace snapvm::test {
namespace {

constexpr std::uint64_t kMemory = 8ULL << 20;
constexpr std::uint64_t kReserve = kMemory / 4 / kPageSize;  // of a guest this small
constexpr std::uint64_t kFree = 200;
constexpr std::uint64_t kFirst = 0x300;
constexpr std::uint32_t kFeatures = 7;  // MUST_TELL_HOST, STATS_VQ, DEFLATE_ON_OOM

class ReleaseFreeMachine : public KvmTest {
protected:
    void boot() {
        MachineConfig config;
        config.memory_bytes = kMemory;
        config.kernel = "tiny";
        config.pages = PagePolicy::small_pages;
        config.machine_id = need(Uuid::random());
        config.devices.balloon.emplace();
        machine_ = tiny_machine(system(), {.code = drive_balloon}, config);
        GuestMemory& memory = machine_->memory();
        std::vector<DriverQueue> queues;
        for (std::uint64_t i = 0; i < 3; ++i) {
            queues.emplace_back(memory, Gpa{0x90000 + i * 0x3000}, 8);
            queues.back().write_descriptor(0, i == 2 ? Gpa{0xA1000} : Gpa{0xA0000}, i == 2 ? 10 : 4, 0, 0);
        }
        tiny::write_registers(memory, platform::kVirtioBase, kFeatures, {queues[0], queues[1], queues[2]});
        need(memory.store(Gpa{0xA1000}, static_cast<std::uint16_t>(virtio::BalloonStatistics::free_memory)));
        need(memory.store(Gpa{0xA1002}, (kReserve + kFree) * kPageSize));
        for (std::uint64_t page = kFirst; page < kFirst + kFree + kTarget; ++page) {
            need(memory.store(Gpa{page * kPageSize + 8}, page));
        }
        service_ = std::make_unique<MachineService>(*machine_, "ballooned");
        need(machine_->balloon().set_target(kTarget * kPageSize));
        need(machine_->resume());
        wait_until_it_holds(*machine_, kTarget);
    }
    static std::uint64_t word(Machine& machine, std::uint64_t index) {
        return need(machine.memory().load<std::uint64_t>(tiny::kData + index * 8));
    }
    static void wait_until_it_holds(Machine& machine, std::uint64_t pages) {
        for (const auto until = soon(); word(machine, 1) != pages;) {
            ASSERT_LT(SteadyClock::now(), until) << "it holds " << word(machine, 1);
            std::this_thread::sleep_for(1ms);
        }
    }
    SnapshotRequest request(SnapshotMode mode = SnapshotMode::live) {
        SnapshotRequest request;
        request.area = area();
        request.mode = mode;
        request.release_free = 1ULL << 40;
        return request;
    }
    static void expect_released(const SnapshotReport& report) {
        EXPECT_EQ(report.released_bytes, kFree * kPageSize);
        EXPECT_EQ(report.pages[static_cast<std::size_t>(PageClass::balloon)], kFree + kTarget);
    }

    static constexpr std::uint64_t kTarget = 10;  // pages that the host wanted before
    std::unique_ptr<Machine> machine_;
    std::unique_ptr<MachineService> service_;
};

TEST_F(ReleaseFreeMachine, IsGivenBackAfterTheSnapshotAndAfterEveryRestore) {
    boot();
    for (const SnapshotMode mode : {SnapshotMode::live, SnapshotMode::precopy, SnapshotMode::stop}) {
        expect_released(need(service_->snapshot(request(mode))));
        ASSERT_NO_FATAL_FAILURE(wait_until_it_holds(*machine_, kTarget)) << "the machine itself";
        for (int i = 0; i < 2; ++i) {
            const auto restored = restore(area());
            EXPECT_EQ(word(*restored, 1), kFree + kTarget);
            const BalloonStatus balloon = need(restored->balloon().status());
            EXPECT_EQ(balloon.target_bytes, kTarget * kPageSize);
            EXPECT_EQ(balloon.actual_bytes, (kFree + kTarget) * kPageSize);
            need(restored->resume());
            ASSERT_NO_FATAL_FAILURE(wait_until_it_holds(*restored, kTarget)) << "a restored one";
        }
    }
}

TEST_F(ReleaseFreeMachine, APausedOrStoppedOneGivesItBackWhenItRuns) {
    boot();
    SnapshotRequest paused = request();
    paused.then = AfterSnapshot::pause;
    expect_released(need(service_->snapshot(paused)));
    EXPECT_EQ(word(*machine_, 1), kFree + kTarget);
    need(machine_->resume());
    ASSERT_NO_FATAL_FAILURE(wait_until_it_holds(*machine_, kTarget));
    SnapshotRequest stopped = request();
    stopped.then = AfterSnapshot::stop;
    expect_released(need(service_->snapshot(stopped)));
    const auto restored = restore(area());
    need(restored->resume());
    ASSERT_NO_FATAL_FAILURE(wait_until_it_holds(*restored, kTarget));
}

TEST_F(ReleaseFreeMachine, IsGivenBackWhereTheSnapshotFailsOrIsCalledOff) {
    boot();
    MachineSnapshotSource source(*machine_);
    for (const bool cancel : {false, true}) {
        SnapshotMonitor monitor;
        WriteOptions options;
        options.release_free = 1ULL << 40;
        options.monitor = &monitor;
        std::uint64_t held = 0;
        options.hook = [&](const IoEvent& event) {
            if (event.step != IoStep::pages) {
                return io::Fault{};
            }
            held = word(*machine_, 1);
            if (cancel) {
                monitor.cancel();
            }
            return io::Fault{cancel ? 0 : ENOSPC, 0};
        };
        const Error error = need_error(write_snapshot(source, area(), options));
        EXPECT_EQ(error.kind(), cancel ? ErrorKind::cancelled : ErrorKind::system);
        EXPECT_EQ(held, kFree + kTarget);
        ASSERT_NO_FATAL_FAILURE(wait_until_it_holds(*machine_, kTarget));
    }
    expect_released(need(service_->snapshot(request())));
}

// Diffs contain changes only. Pages that were given up and pages that were taken back are among
// them.
TEST_F(ReleaseFreeMachine, DiffsKnowWhatWasGivenUpAndTakenBack) {
    boot();
    SnapshotRequest tracked = request();
    tracked.track = true;
    expect_released(need(service_->snapshot(tracked)));
    ASSERT_NO_FATAL_FAILURE(wait_until_it_holds(*machine_, kTarget));
    need(machine_->memory().store(Gpa{(kFirst + 50) * kPageSize}, std::uint64_t{77}));
    tracked.release_free.reset();
    const SnapshotReport plain = need(service_->snapshot(tracked));
    EXPECT_EQ(plain.type, "diff");
    EXPECT_EQ(plain.pages[static_cast<std::size_t>(PageClass::balloon)], kTarget);
    EXPECT_EQ(need(restore(area())->memory().load<std::uint64_t>(Gpa{(kFirst + 50) * kPageSize})), 77U);
    tracked.release_free = 1ULL << 40;
    const SnapshotReport again = need(service_->snapshot(tracked));
    EXPECT_EQ(again.type, "diff");
    expect_released(again);
    EXPECT_EQ(need(restore(area())->memory().load<std::uint64_t>(Gpa{(kFirst + 50) * kPageSize})), 0U);
}

}  // namespace
}  // namespace snapvm::test
