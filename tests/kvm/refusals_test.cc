// SPDX-License-Identifier: Apache-2.0
// What a restore refuses. Each refusal must have one line that says what is wrong, and leave
// nothing behind.
#include <algorithm>

#include "tests/kvm/harness.h"
#include "vmm/machine/clock_state.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm::test {
namespace {

class Refusals : public KvmTest {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        const std::unique_ptr<Machine> machine =
            create_ledger({.cpus = 2, .cmdline = "ws=1M", .memory_bytes = 8ULL << 20});
        snapshot(*machine, area());
        saved_ = need(open_snapshot(area())).saved;
    }
    StateRecord& record(RecordKind kind, std::uint32_t instance = 0) {
        return *std::ranges::find_if(saved_.records,
                                     [&](const StateRecord& r) { return r.kind == kind && r.instance == instance; });
    }
    void edit_vcpu(std::uint32_t instance, const auto& edit) {
        VcpuStateV1 state = need(VcpuStateV1::decode(record(RecordKind::vcpu, instance).bytes));
        edit(state);
        record(RecordKind::vcpu, instance).bytes = state.encode();
    }
    Error refused() {
        RestoredSnapshot restored = need(open_snapshot(area()));
        return need_error(Machine::restore(system(), saved_, std::move(restored.memory)));
    }
    void expect_message(std::string_view part, ErrorKind kind) {
        const Error error = refused();
        EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
        EXPECT_EQ(error.kind(), kind) << error.message();
    }

    SavedMachine saved_;
};

TEST_F(Refusals, UneditedStateIsTaken) {
    RestoredSnapshot restored = need(open_snapshot(area()));
    const std::unique_ptr<Machine> machine = need(Machine::restore(system(), saved_, std::move(restored.memory)));
    need(machine->resume());
    EXPECT_TRUE(machine->wait_ready(soon()));
}

TEST_F(Refusals, AnotherMemorySize) {
    saved_.config.memory_bytes = 10ULL << 20;
    expect_message("memory blocks are not those of its configuration (10 MiB)", ErrorKind::invalid);
}

TEST_F(Refusals, CpuFeatureTheHostLacks) {
    // These bits are reserved on every processor.
    edit_vcpu(0, [](VcpuStateV1& state) {
        const auto leaf = std::ranges::find(state.cpuid, 0x80000001U, &kvm_cpuid_entry2::function);
        ASSERT_NE(leaf, state.cpuid.end());
        leaf->ecx |= 1U << 31;
    });
    expect_message("CPUID leaf 0x80000001 ecx bits 0x80000000", ErrorKind::unsupported);
}

TEST_F(Refusals, MsrThatKvmDoesNotTake) {
    // Trap: KVM_SET_MSRS' short count is ignored. The MSR is in the middle, so that MSRs after it
    // would be lost.
    edit_vcpu(1, [](VcpuStateV1& state) {
        state.msrs.insert(state.msrs.begin() + 3, kvm_msr_entry{.index = 0x12345678, .reserved = 0, .data = 5});
    });
    expect_message("vCPU 1: MSR 0x12345678 does not accept 0x5", ErrorKind::unsupported);
}

TEST_F(Refusals, AnotherTscFrequency) {
    std::uint32_t khz = 0;
    edit_vcpu(0, [&](VcpuStateV1& state) { khz = state.tsc_khz += state.tsc_khz / 100; });
    if (khz == 0) {
        GTEST_SKIP() << "this KVM does not report the TSC's frequency";
    }
    if (system().capabilities().tsc_control != 0) {
        edit_vcpu(1, [&](VcpuStateV1& state) { state.tsc_khz = khz; });
        RestoredSnapshot restored = need(open_snapshot(area()));
        const std::unique_ptr<Machine> machine = need(Machine::restore(system(), saved_, std::move(restored.memory)));
        const SavedMachine again = need(machine->save());
        const auto vcpu = std::ranges::find(again.records, RecordKind::vcpu, &StateRecord::kind);
        EXPECT_NEAR(need(VcpuStateV1::decode(vcpu->bytes)).tsc_khz, khz, khz / 4000.0) << "the TSC was not scaled";
        return;
    }
    expect_message("the snapshot's TSC runs at " + std::to_string(khz) + " kHz, this host's at ",
                   ErrorKind::unsupported);
}

TEST_F(Refusals, GapOfASnapshotThatDoesNotSayWhenItWasTaken) {
    kvm_clock_data clock = need(decode_clock(record(RecordKind::clock)));
    EXPECT_NE(clock.realtime, 0U);
    clock.realtime = 0;
    record(RecordKind::clock) = encode_clock(clock);
    RestoredSnapshot restored = need(open_snapshot(area()));
    const Error error =
        need_error(Machine::restore(system(), saved_, std::move(restored.memory), {.gap = GapMode::seen}));
    EXPECT_NE(error.message().find("--clock resume"), std::string::npos) << error.message();
}

TEST_F(Refusals, MissingRecord) {
    for (const RecordKind kind : {RecordKind::clock, RecordKind::serial, RecordKind::ioapic, RecordKind::reset,
                                  RecordKind::test_port, RecordKind::vmgenid}) {
        const SavedMachine whole = saved_;
        std::erase_if(saved_.records, [&](const StateRecord& r) { return r.kind == kind; });
        expect_message(std::string(name_of(kind)) + " 0 is missing", ErrorKind::invalid);
        saved_ = whole;
    }
}

TEST_F(Refusals, UnknownRecord) {
    saved_.records.push_back({static_cast<RecordKind>(999), 1, 0, {}});
    expect_message("belongs to no part of this machine", ErrorKind::invalid);
}

TEST_F(Refusals, SecondInstanceOfADevice) {
    StateRecord second = record(RecordKind::serial);
    second.instance = 1;
    saved_.records.push_back(second);
    expect_message("serial 1 belongs to no part", ErrorKind::invalid);
}

TEST_F(Refusals, DuplicateRecord) {
    saved_.records.push_back(record(RecordKind::vcpu, 1));
    expect_message("vcpu 1 is there twice", ErrorKind::invalid);
}

TEST_F(Refusals, RecordOfAnotherVersion) {
    for (StateRecord& edited : saved_.records) {
        edited.version += 1;
        expect_message(std::string(name_of(edited.kind)) + " " + std::to_string(edited.instance) + " has version 2",
                       ErrorKind::unsupported);
        edited.version -= 1;
    }
}

TEST_F(Refusals, FewerVcpusThanConfigured) {
    std::erase_if(saved_.records, [](const StateRecord& r) { return r.kind == RecordKind::vcpu && r.instance == 1; });
    expect_message("vcpu 1 is missing", ErrorKind::invalid);
}

TEST_F(Refusals, MoreVcpusThanConfigured) {
    saved_.config.cpus = 1;
    expect_message("vcpu 1 belongs to no part", ErrorKind::invalid);
}

// Every record's decoder must notice a record that is one byte too short or too long.
TEST_F(Refusals, RecordsOfAnotherLength) {
    for (StateRecord& edited : saved_.records) {
        edited.bytes.push_back(std::byte{0});
        EXPECT_EQ(refused().kind(), ErrorKind::invalid) << name_of(edited.kind);
        edited.bytes.resize(edited.bytes.size() - 2);
        EXPECT_EQ(refused().kind(), ErrorKind::invalid) << name_of(edited.kind);
        edited.bytes.push_back(std::byte{0});
    }
}

// Random bytes make values that no vCPU can have. KVM refuses them, or the guest fails when it
// runs; the VMM must not fail.
TEST_F(Refusals, RandomVcpuStateCrashesNothing) {
    for (int i = 0; i < 60; ++i) {
        const StateRecord whole = record(RecordKind::vcpu);
        for (int flips = 0; flips < 3; ++flips) {
            record(RecordKind::vcpu).bytes[random(whole.bytes.size())] ^=
                std::byte{static_cast<unsigned char>(1U << random(8))};
        }
        RestoredSnapshot restored = need(open_snapshot(area()));
        auto machine = Machine::restore(system(), saved_, std::move(restored.memory));
        if (machine) {
            (void)(*machine)->resume().has_value();
            (void)(*machine)->wait_ended(SteadyClock::now() + 2ms);
            need((*machine)->pause());
        } else {
            EXPECT_EQ(machine.error().message().find('\n'), std::string::npos);
        }
        record(RecordKind::vcpu) = whole;
    }
}

}  // namespace
}  // namespace snapvm::test
