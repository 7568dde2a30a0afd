// SPDX-License-Identifier: Apache-2.0
// Traps: MSR order (the TSC deadline), clock set after the vCPUs run, no KVM_KVMCLOCK_CTRL.
#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "tests/kvm/rig.h"
#include "vmm/machine/clock_state.h"

// kvmclock's page at 0x70100; then spins.
SNAPVM_TINY_CODE(kvmclock_page, R"(
    mov $0x4b564d01, %ecx
    mov $0x70101, %eax
    xor %edx, %edx
    wrmsr
1:  incq (%rbx)
    jmp 1b
)");

namespace snapvm::test {
namespace {

// The machine, saved and built anew on the memory it had: a snapshot and a restore without the area. Not started.
std::unique_ptr<Machine> reborn(const kvm::System& system, std::unique_ptr<Machine> machine) {
    need(machine->freeze());
    const SavedMachine saved = need(machine->save());
    GuestMemory memory = std::move(machine->memory());
    machine.reset();
    return need(Machine::restore(system, saved, std::move(memory)));
}

// A shard's counters, which the guest writes while we look.
std::uint64_t header_word(const GuestMemory& memory, std::uint32_t shard, std::size_t offset) {
    const auto root = need(memory.load<ledger::Root>(Gpa{ledger::kRootAddress}));
    const auto bytes = need(memory.span(Gpa{ledger::header_address(root, shard) + offset}, sizeof(std::uint64_t)));
    return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(bytes.data())).load(std::memory_order_relaxed);
}
std::uint64_t ticks_of(const GuestMemory& memory, std::uint32_t shard) {
    return header_word(memory, shard, offsetof(ledger::ShardHeader, ticks));
}

bool wait_for(const auto& condition) {
    for (const auto deadline = soon(); !condition();) {
        if (SteadyClock::now() >= deadline) {
            return false;
        }
        std::this_thread::sleep_for(200us);
    }
    return true;
}

class Ticks : public KvmTest, public ::testing::WithParamInterface<std::uint32_t> {};

// A tick that is lost never comes again: each handler arms the next. So every restore must show every vCPU ticking on.
TEST_P(Ticks, GoOnAfterHundredsOfRestoresAtRandomMoments) {
    const int restores = 160 / static_cast<int>(GetParam());
    std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = GetParam(), .cmdline = "ws=256K hz=500 rate=1000", .memory_bytes = 16ULL << 20});
    for (int i = 0; i < restores; ++i) {
        run_a_while(4ms);
        machine = reborn(system(), std::move(machine));
        std::array<std::uint64_t, ledger::kMaxShards> before{};
        for (std::uint32_t shard = 0; shard < GetParam(); ++shard) {
            before[shard] = ticks_of(machine->memory(), shard);
        }
        need(machine->resume());
        for (std::uint32_t shard = 0; shard < GetParam(); ++shard) {
            ASSERT_TRUE(wait_for([&] { return ticks_of(machine->memory(), shard) > before[shard] + 1; }))
                << "vCPU " << shard << " has lost its tick at restore " << i;
        }
    }
    const LedgerLine line = verify_ledger(*machine);
    EXPECT_TRUE(line.ok) << line.text;
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Cpus, Ticks, ::testing::Values(1, 2, 4));

// The same through an area.
TEST_F(KvmTest, TicksGoOnThroughAnArea) {
    std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=256K hz=500", .memory_bytes = 16ULL << 20});
    WriteOptions stop;
    stop.keep_frozen = true;
    std::uint64_t ticks = 0;
    for (int i = 0; i < 10; ++i) {
        run_a_while(4ms);
        snapshot(*machine, area(std::to_string(i % 2)), stop);
        machine = restore(area(std::to_string(i % 2)));
        need(machine->resume());
        const LedgerLine line = verify_ledger(*machine);
        ASSERT_TRUE(line.ok) << line.text;
        EXPECT_GT(line.ticks, ticks);
        ticks = line.ticks;
    }
}

// kvmclock goes on from where it was saved: not by the time the snapshot lay around, and never backwards.
TEST_F(KvmTest, KvmclockDoesNotJumpOverARestore) {
    const auto clock_of = [](const SavedMachine& saved) {
        return need(decode_clock(*std::ranges::find(saved.records, RecordKind::clock, &StateRecord::kind))).clock;
    };
    constexpr std::size_t kReading = offsetof(ledger::ShardHeader, kvmclock_ns);
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=256K", .memory_bytes = 16ULL << 20});
    for (std::uint32_t shard = 0; shard < 2; ++shard) {
        if (!wait_for([&] { return header_word(machine->memory(), shard, kReading) != 0; })) {
            GTEST_SKIP() << "this guest sees no kvmclock";
        }
    }
    snapshot(*machine, area());
    const std::uint64_t saved = clock_of(need(open_snapshot(area())).saved);
    std::this_thread::sleep_for(300ms);
    const std::unique_ptr<Machine> restored = restore(area());
    std::array<std::uint64_t, 2> last{};
    for (std::uint32_t shard = 0; shard < 2; ++shard) {
        last[shard] = header_word(restored->memory(), shard, kReading);
        EXPECT_LE(last[shard], saved);
    }
    EXPECT_EQ(clock_of(need(restored->save())), saved) << "the clock of a machine that never ran has moved";
    const auto resumed = SteadyClock::now();
    need(restored->resume());
    for (std::uint32_t shard = 0; shard < 2; ++shard) {
        ASSERT_TRUE(wait_for([&] { return header_word(restored->memory(), shard, kReading) != last[shard]; }));
        const std::uint64_t now = header_word(restored->memory(), shard, kReading);
        const auto ran = std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock::now() - resumed);
        EXPECT_GE(now, last[shard]);
        // The guest's clock cannot have run for longer than the guest; a millisecond for two clocks that are not the same one.
        EXPECT_LE(now, saved + static_cast<std::uint64_t>(ran.count()) + 1000000);
    }
    const LedgerLine line = verify_ledger(*restored);
    EXPECT_TRUE(line.ok) << line.text;
    expect_sound_end(*restored);
}

TEST_F(KvmTest, GuestIsToldThatItWasPausedAndRestored) {
    constexpr Gpa kFlags{0x70100 + 29};  // pvclock_vcpu_time_info.flags
    constexpr std::uint8_t kGuestStopped = 2;
    std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = kvmclock_page, .user = false});
    const auto run_on = [&] {
        const auto count = [&] { return need(machine->memory().load<std::uint64_t>(tiny::kData)); };
        const std::uint64_t before = count();
        need(machine->resume());
        EXPECT_TRUE(wait_for([&] { return count() > before; }));
        need(machine->pause());
        const auto flags = need(machine->memory().load<std::uint8_t>(kFlags));
        need(machine->memory().store(kFlags, static_cast<std::uint8_t>(flags & ~kGuestStopped)));
        return (flags & kGuestStopped) != 0;
    };
    run_on();
    if (!run_on()) {
        GTEST_SKIP() << "this KVM does not pass KVM_KVMCLOCK_CTRL on";
    }
    machine = reborn(system(), std::move(machine));
    EXPECT_TRUE(run_on()) << "a restored guest is not told that it was stopped";
}

}  // namespace
}  // namespace snapvm::test
