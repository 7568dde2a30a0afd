// SPDX-License-Identifier: Apache-2.0
// Traps: MSR order (the TSC deadline), clock set after the vCPUs run, no KVM_KVMCLOCK_CTRL.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>

#include "guest-images/ledger/abi.h"
#include "tests/kvm/rig.h"
#include "vmm/machine/clock_state.h"
#include "vmm/vcpu/vcpu_state.h"

// kvmclock's page at 0x70100; then spins.
SNAPVM_TINY_CODE(kvmclock_page, R"(
    mov $0x4b564d01, %ecx
    mov $0x70101, %eax
    xor %edx, %edx
    wrmsr
1:  incq (%rbx)
    jmp 1b
)");
SNAPVM_TINY_CODE(spin, R"(
1:  incq (%rbx)
    jmp 1b
)");

namespace snapvm::test {
namespace {

// Saves the machine and builds it anew on the same memory, like a snapshot and a restore without an
// area. The new machine is not started.
std::unique_ptr<Machine> reborn(const kvm::System& system, std::unique_ptr<Machine> machine) {
    need(machine->freeze());
    const SavedMachine saved = need(machine->save());
    GuestMemory memory = std::move(machine->memory());
    machine.reset();
    return need(Machine::restore(system, saved, std::move(memory)));
}

// Reads a counter of a shard, which the guest may write meanwhile.
std::uint64_t header_word(const GuestMemory& memory, std::uint32_t shard, std::size_t offset) {
    const auto root = need(memory.load<ledger::Root>(Gpa{ledger::kRootAddress}));
    const auto bytes = need(memory.span(Gpa{ledger::header_address(root, shard) + offset}, sizeof(std::uint64_t)));
    return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(bytes.data()))
        .load(std::memory_order_relaxed);
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

// A lost tick stops all later ones, because each handler arms the next. So every restore must show
// that every vCPU goes on ticking.
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
    std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = 2, .cmdline = "ws=256K hz=500", .memory_bytes = 16ULL << 20});
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

// After a restore kvmclock goes on from its saved value. It does not count the time in between, and
// never goes back.
TEST_F(KvmTest, KvmclockDoesNotJumpOverARestore) {
    const auto clock_of = [](const SavedMachine& saved) {
        return need(decode_clock(*std::ranges::find(saved.records, RecordKind::clock, &StateRecord::kind))).clock;
    };
    constexpr std::size_t kReading = offsetof(ledger::ShardHeader, kvmclock_ns);
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = 2, .cmdline = "ws=256K", .memory_bytes = 16ULL << 20});
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
        // The guest's clock cannot run longer than the guest. The millisecond allows for two
        // different clocks.
        EXPECT_LE(now, saved + static_cast<std::uint64_t>(ran.count()) + 1000000);
    }
    const LedgerLine line = verify_ledger(*restored);
    EXPECT_TRUE(line.ok) << line.text;
    expect_sound_end(*restored);
}

// Edits the time in a saved machine, as if the snapshot were older, or from a host that had been up
// longer.
SavedMachine edited(SavedMachine saved, const auto& edit_clock, const auto& edit_vcpu) {
    for (StateRecord& record : saved.records) {
        if (record.kind == RecordKind::clock) {
            kvm_clock_data clock = need(decode_clock(record));
            edit_clock(clock);
            record = encode_clock(clock);
        } else if (record.kind == RecordKind::vcpu) {
            VcpuStateV1 state = need(VcpuStateV1::decode(record.bytes));
            edit_vcpu(state);
            record.bytes = state.encode();
        }
    }
    return saved;
}

__u64& msr_of(VcpuStateV1& state, std::uint32_t index) {
    const auto found = std::ranges::find(state.msrs, index, &kvm_msr_entry::index);
    if (found == state.msrs.end()) {
        throw std::runtime_error("no such MSR in the state");
    }
    return found->data;
}

// The guest's clock reads an hour more, or no more than the guest has run. It ticks in both cases.
TEST_F(KvmTest, ClockContinuesOrResumesAsAsked) {
    constexpr std::uint64_t kHour = 3'600'000'000'000;
    constexpr std::size_t kReading = offsetof(ledger::ShardHeader, kvmclock_ns);
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = 2, .cmdline = "ws=256K", .memory_bytes = 16ULL << 20});
    if (!wait_for([&] { return header_word(machine->memory(), 1, kReading) != 0; })) {
        GTEST_SKIP() << "this guest sees no kvmclock";
    }
    snapshot(*machine, area());
    for (const GapMode gap : {GapMode::hidden, GapMode::seen}) {
        RestoredSnapshot opened = need(open_snapshot(area()));
        const SavedMachine saved = edited(
            std::move(opened.saved), [](kvm_clock_data& clock) { clock.realtime -= kHour; }, [](VcpuStateV1&) {});
        const std::unique_ptr<Machine> restored =
            need(Machine::restore(system(), saved, std::move(opened.memory), {.gap = gap}));
        EXPECT_FALSE(restored->tsc_was_set().has_value());
        std::array<std::uint64_t, 2> before{};
        std::array<std::uint64_t, 2> ticks{};
        for (std::uint32_t shard = 0; shard < 2; ++shard) {
            before[shard] = header_word(restored->memory(), shard, kReading);
            ticks[shard] = ticks_of(restored->memory(), shard);
        }
        need(restored->resume());
        for (std::uint32_t shard = 0; shard < 2; ++shard) {
            const auto reading = [&] { return header_word(restored->memory(), shard, kReading); };
            ASSERT_TRUE(wait_for([&] {
                return ticks_of(restored->memory(), shard) > ticks[shard] + 2 && reading() > before[shard];
            })) << "vCPU "
                << shard;
            if (gap == GapMode::seen) {
                EXPECT_GE(reading(), before[shard] + kHour);
            } else {
                EXPECT_LT(reading(), before[shard] + kHour / 2);
            }
        }
        EXPECT_TRUE(restored->tsc_was_set().has_value());
        const LedgerLine line = verify_ledger(*restored);
        EXPECT_TRUE(line.ok) << line.text;
        expect_sound_end(*restored);
    }
}

// The distance to another host's TSC, which is this far ahead or behind. It is longer than a test
// waits.
constexpr std::uint64_t kApart = 1ULL << 38;
constexpr std::array<std::uint64_t, 2> kOtherHosts = {kApart, 0 - kApart};
static_assert(kApart / 4'000'000'000 > std::uint64_t{kPatience / 1s});

// Interrupts are off, so that the deadline's interrupt is not delivered.
TEST_F(KvmTest, ADeadlineKeepsTheTimeItHasLeft) {
    constexpr std::uint64_t kLeft = kApart / 2;
    for (const std::uint64_t apart : kOtherHosts) {
        std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = spin});
        need(machine->freeze());
        const SavedMachine saved = edited(
            need(machine->save()), [](kvm_clock_data&) {},
            [&](VcpuStateV1& state) {
                constexpr std::uint32_t kSoftwareEnable = 0x100, kDeadlineMode = 0x40000, kVector = 0x40;
                const auto set_lapic = [&](std::size_t offset, std::uint32_t value) {
                    std::memcpy(&state.lapic.regs[offset], &value, sizeof value);
                };
                set_lapic(0xF0, kSoftwareEnable | 0xFF);
                set_lapic(0x320, kDeadlineMode | kVector);
                msr_of(state, kMsrTsc) += apart;
                msr_of(state, kMsrTscDeadline) = msr_of(state, kMsrTsc) + kLeft;
            });
        GuestMemory memory = std::move(machine->memory());
        machine.reset();
        machine = need(Machine::restore(system(), saved, std::move(memory)));
        need(machine->resume());
        const auto count = [&] { return need(machine->memory().load<std::uint64_t>(tiny::kData)); };
        ASSERT_TRUE(wait_for([&] { return count() > 0; }));
        need(machine->freeze());
        const SavedMachine again = need(machine->save());
        VcpuStateV1 state =
            need(VcpuStateV1::decode(std::ranges::find(again.records, RecordKind::vcpu, &StateRecord::kind)->bytes));
        const std::uint64_t deadline = msr_of(state, kMsrTscDeadline);
        const std::uint64_t now = msr_of(state, kMsrTsc);
        EXPECT_GT(deadline, now) << "it fired";
        EXPECT_LE(deadline, now + kLeft);
    }
}

// The ledger guest computes a deadline from the last one, which is in its memory.
TEST_F(KvmTest, TicksGoOnWithAnotherHostsTsc) {
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = 2, .cmdline = "ws=256K hz=20", .memory_bytes = 16ULL << 20});
    ASSERT_TRUE(wait_for([&] { return ticks_of(machine->memory(), 1) > 0; }));
    snapshot(*machine, area());
    for (const std::uint64_t apart : kOtherHosts) {
        RestoredSnapshot opened = need(open_snapshot(area()));
        const SavedMachine saved = edited(
            std::move(opened.saved), [](kvm_clock_data&) {},
            [&](VcpuStateV1& state) {
                msr_of(state, kMsrTsc) += apart;
                if (__u64& deadline = msr_of(state, kMsrTscDeadline); deadline != 0) {
                    deadline += apart;
                }
                for (const std::uint64_t offset : {PERCPU_DEADLINE, PERCPU_LAST_TSC}) {
                    const Gpa at{state.sregs.gs.base + offset};
                    need(opened.memory.store(at, need(opened.memory.load<std::uint64_t>(at)) + apart));
                }
            });
        const std::unique_ptr<Machine> restored = need(Machine::restore(system(), saved, std::move(opened.memory)));
        std::array<std::uint64_t, 2> before{};
        for (std::uint32_t shard = 0; shard < 2; ++shard) {
            before[shard] = ticks_of(restored->memory(), shard);
        }
        need(restored->resume());
        for (std::uint32_t shard = 0; shard < 2; ++shard) {
            ASSERT_TRUE(wait_for([&] { return ticks_of(restored->memory(), shard) > before[shard] + 2; }))
                << "vCPU " << shard;
        }
        const LedgerLine line = verify_ledger(*restored);
        EXPECT_TRUE(line.ok) << line.text;
        expect_sound_end(*restored);
    }
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
