// SPDX-License-Identifier: Apache-2.0
// End to end: snapshot A, run on, snapshot B, restore A, snapshot C. C must equal A to the bit
// (except clocks, see vcpu_fields.h), and B must differ from A.
#include <algorithm>
#include <cstring>
#include <thread>

#include "snapshot/report/verify.h"
#include "tests/kvm/harness.h"
#include "tests/kvm/vcpu_fields.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm::test {
namespace {

std::vector<StateRecord> records_of(const AreaPath& path) { return need(open_snapshot(path)).saved.records; }

// Compares everything except state records, which contain clocks and are compared field by field.
std::vector<std::string> page_differences(const AreaPath& a, const AreaPath& b) {
    std::vector<std::string> lines = need(compare_snapshots(a, b));
    std::erase_if(lines, [](const std::string& line) { return line.starts_with("state record "); });
    return lines;
}

void expect_equal_snapshots(const AreaPath& a, const AreaPath& c) {
    EXPECT_EQ(page_differences(a, c), std::vector<std::string>{});
    EXPECT_EQ(differences(records_of(a), records_of(c)), std::vector<std::string>{});
}

class RoundTrip : public KvmTest {
protected:
    // Makes A and B of a machine under load, then C of the machine restored from A.
    void check(const LedgerOptions& options) {
        {
            const std::unique_ptr<Machine> machine = boot_ledger(options);
            std::this_thread::sleep_for(30ms);
            snapshot(*machine, area("a"));
            std::this_thread::sleep_for(30ms);
            snapshot(*machine, area("b"));
        }
        {
            const std::unique_ptr<Machine> restored = restore(area("a"));
            // Waiting changes nothing but clocks.
            std::this_thread::sleep_for(30ms);
            snapshot(*restored, area("c"));
            EXPECT_EQ(restored->state(), Machine::State::paused);
        }
        expect_equal_snapshots(area("a"), area("c"));
        EXPECT_FALSE(page_differences(area("a"), area("b")).empty());
        EXPECT_FALSE(differences(records_of(area("a")), records_of(area("b"))).empty());
        EXPECT_EQ(need(verify_area(area("c"))).fault_count, 0U);
        // C must run, because it equals A.
        const std::unique_ptr<Machine> restored = restore(area("c"));
        need(restored->resume());
        const LedgerLine line = verify_ledger(*restored);
        EXPECT_TRUE(line.ok) << line.text;
        expect_sound_end(*restored);
    }
};

class RoundTripByCpus : public RoundTrip, public ::testing::WithParamInterface<std::uint32_t> {};

TEST_P(RoundTripByCpus, RestoredMachineSnapshotsToTheSameBits) {
    // Zero, identical, hot and untouched pages give every page class.
    check({.cpus = GetParam(), .cmdline = "ws=8M rate=0 zero=20 dup=20 gap=8K"});
}

INSTANTIATE_TEST_SUITE_P(Cpus, RoundTripByCpus, ::testing::Values(1, 2, 4));

// Trap: several memory slots. Pages on both sides of the hole are spread over 5 GiB.
TEST_F(RoundTrip, FiveGibibytesOnBothSidesOfTheHole) {
    check({.cpus = 2, .cmdline = "ws=256K gap=65532K rate=0", .memory_bytes = 5ULL << 30});
}

// Pages above the hole must be found at their own place. A page offset computed over all slots
// would be wrong by 1 GiB.
TEST_F(RoundTrip, PageAboveTheHoleComesBackAtItsAddress) {
    constexpr Gpa kHigh{(4ULL << 30) + 123 * kPageSize};
    constexpr Gpa kLow{(3ULL << 30) - 5 * kPageSize};
    const std::unique_ptr<Machine> machine = create_ledger({.cpus = 1, .cmdline = "ws=1M", .memory_bytes = 5ULL << 30});
    need(machine->memory().store(kHigh, std::uint64_t{0x1111}));
    need(machine->memory().store(kLow, std::uint64_t{0x2222}));
    const SnapshotReport report = snapshot(*machine, area());
    EXPECT_LT(report.written_bytes, 64ULL << 20) << "untouched memory was written";
    const std::unique_ptr<Machine> restored = restore(area());
    EXPECT_EQ(need(restored->memory().load<std::uint64_t>(kHigh)), 0x1111U);
    EXPECT_EQ(need(restored->memory().load<std::uint64_t>(kLow)), 0x2222U);
}

// A vCPU is in the middle of an interrupt handler: its LAPIC has a vector in service.
TEST_F(RoundTrip, AnInterruptInServiceComesBackToTheBit) {
    constexpr std::size_t kProcessorPriority = 0xA0;
    constexpr std::size_t kInService = 0x100;
    constexpr std::uint32_t kVector = 0x45;
    snapshot(*create_ledger({.cpus = 1}), area());
    RestoredSnapshot restored = need(open_snapshot(area()));
    StateRecord& record = *std::ranges::find(restored.saved.records, RecordKind::vcpu, &StateRecord::kind);
    VcpuStateV1 state = need(VcpuStateV1::decode(record.bytes));
    const std::uint32_t bit = 1U << kVector % 32;
    const std::uint32_t priority = kVector & 0xF0;
    std::memcpy(state.lapic.regs + kInService + kVector / 32 * 16, &bit, sizeof bit);
    std::memcpy(state.lapic.regs + kProcessorPriority, &priority, sizeof priority);
    record.bytes = state.encode();
    const std::unique_ptr<Machine> machine =
        need(Machine::restore(system(), restored.saved, std::move(restored.memory)));
    EXPECT_EQ(differences(restored.saved.records, need(machine->save()).records), std::vector<std::string>{});
}

// Registers that no test guest changes.
TEST_F(RoundTrip, DebugRegistersAndXcr0ComeBackToTheBit) {
    snapshot(*create_ledger({.cpus = 1}), area());
    RestoredSnapshot restored = need(open_snapshot(area()));
    StateRecord& record = *std::ranges::find(restored.saved.records, RecordKind::vcpu, &StateRecord::kind);
    VcpuStateV1 state = need(VcpuStateV1::decode(record.bytes));
    for (std::size_t i = 0; i < 4; ++i) {
        state.debugregs.db[i] = 0x1000 * (i + 1);
    }
    state.debugregs.dr7 |= 0x2;  // G0: breakpoint 0 is on
    if (state.xcrs.nr_xcrs > 0) {
        state.xcrs.xcrs[0].value = 3;  // x87 and SSE; 1 after a reset
    }
    record.bytes = state.encode();
    const std::unique_ptr<Machine> machine =
        need(Machine::restore(system(), restored.saved, std::move(restored.memory)));
    EXPECT_EQ(differences(restored.saved.records, need(machine->save()).records), std::vector<std::string>{});
}

VcpuStateV1 first_vcpu(const std::vector<StateRecord>& records) {
    return need(VcpuStateV1::decode(std::ranges::find(records, RecordKind::vcpu, &StateRecord::kind)->bytes));
}

// Linux 6.1 does not report how many entries there are. Some KVMs keep no leaf that reads as zeros.
TEST_F(RoundTrip, AVcpuIsSavedWithTheCpuidEntriesThatWereSet) {
    const VcpuStateV1 state = first_vcpu(need(create_ledger({.cpus = 1})->save()).records);
    const CpuidTable set = cpuid_for_vcpu(need(system().supported_cpuid()), 0, 1, true);
    EXPECT_LE(state.cpuid.size(), set.size());
    for (const kvm_cpuid_entry2& entry : set) {
        const bool saved = std::ranges::any_of(state.cpuid, [&](const kvm_cpuid_entry2& one) {
            return one.function == entry.function && one.index == entry.index;
        });
        EXPECT_TRUE(saved || (entry.eax | entry.ebx | entry.ecx | entry.edx) == 0)
            << std::hex << entry.function << "." << entry.index;
    }
}

// No guest of ours sees Hyper-V.
TEST_F(RoundTrip, AVcpuIsSavedWithoutMsrsOfHyperV) {
    for (const kvm_msr_entry& msr : first_vcpu(need(create_ledger({.cpus = 1})->save()).records).msrs) {
        EXPECT_FALSE(msr.index >= 0x40000000 && msr.index <= 0x400001FF) << std::hex << msr.index;
    }
}

// Snapshots of a restored machine into new areas, up to the third generation. Trap: the machine is
// still restored lazily.
class Chain : public KvmTest, public ::testing::WithParamInterface<std::uint32_t> {};

TEST_P(Chain, ThreeGenerationsKeepTheLedger) {
    std::uint64_t steps = 0;
    {
        const std::unique_ptr<Machine> machine = boot_ledger({.cpus = GetParam(), .cmdline = "ws=8M rate=0"});
        std::this_thread::sleep_for(20ms);
        snapshot(*machine, area("g0"));
    }
    for (int generation = 1; generation <= 3; ++generation) {
        const AreaPath from = area("g" + std::to_string(generation - 1));
        const AreaPath to = area("g" + std::to_string(generation));
        const std::unique_ptr<Machine> machine = restore(from);
        need(machine->resume());
        LedgerLine line = verify_ledger(*machine);
        // The command may be served before the next step. The steps must go on nevertheless.
        for (int tries = 0; line.ok && line.steps <= steps && tries < 200; ++tries) {
            std::this_thread::sleep_for(10ms);
            line = verify_ledger(*machine);
        }
        ASSERT_TRUE(line.ok) << line.text;
        EXPECT_GT(line.steps, steps);
        steps = line.steps;
        snapshot(*machine, to);
        EXPECT_EQ(check_ledger(need(open_snapshot(to)).memory), "");
        EXPECT_EQ(need(verify_area(to)).fault_count, 0U);
    }
}

INSTANTIATE_TEST_SUITE_P(Cpus, Chain, ::testing::Values(1, 2, 4));

// The snapshot is made before the first instruction. The guest must boot from it.
TEST_F(RoundTrip, MachineThatNeverRanBootsFromItsSnapshot) {
    snapshot(*create_ledger({.cpus = 2}), area());
    const std::unique_ptr<Machine> machine = restore(area());
    need(machine->resume());
    ASSERT_TRUE(machine->wait_ready(soon()));
    expect_sound_end(*machine);
}

}  // namespace
}  // namespace snapvm::test
