// SPDX-License-Identifier: Apache-2.0
// A shell that is made before its machine is known, and machines restored into it.
#include "vmm/machine/shell.h"

#include <filesystem>
#include <iterator>

#include "snapshot/report/verify.h"
#include "tests/kvm/harness.h"
#include "tests/kvm/vcpu_fields.h"

namespace snapvm::test {
namespace {

class Shells : public KvmTest, public ::testing::WithParamInterface<ShellConfig> {
protected:
    static constexpr std::uint64_t kMemory = 64ULL << 20;

    static Shell make_shell(const ShellConfig& config, std::uint64_t memory_bytes = kMemory) {
        MachineConfig machine;
        machine.memory_bytes = memory_bytes;
        return need(Shell::ahead(system(), config, machine.blocks()));
    }
    static std::unique_ptr<Machine> restore_into(Shell shell, const AreaPath& path) {
        RestoredSnapshot restored = need(open_snapshot(path, {}, shell.take_addresses()));
        return need(Machine::restore(std::move(shell), restored.saved, std::move(restored.memory)));
    }
    void save_ledger(std::uint32_t cpus) { snapshot(*boot_ledger({.cpus = cpus, .memory_bytes = kMemory}), area()); }
    static void expect_refusal(const Error& error, std::string_view part) {
        EXPECT_EQ(error.kind(), ErrorKind::usage) << error.message();
        EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
    }
};

// The second snapshot needs slots that track writes to memory that was mapped after them.
TEST_P(Shells, HasTheMachineOfTheSnapshot) {
    if (GetParam().dirty == DirtyTracking::ring && system().capabilities().dirty_ring == 0) {
        GTEST_SKIP() << "this KVM has no dirty ring";
    }
    save_ledger(GetParam().cpus);
    const std::unique_ptr<Machine> machine = restore_into(make_shell(GetParam()), area());
    snapshot(*machine, area("copy"));
    std::vector<std::string> differing = need(compare_snapshots(area(), area("copy")));
    std::erase_if(differing, [](const std::string& line) { return line.starts_with("state record "); });
    EXPECT_EQ(differing, std::vector<std::string>{});
    EXPECT_EQ(differences(need(open_snapshot(area())).saved.records, need(open_snapshot(area("copy"))).saved.records),
              std::vector<std::string>{});

    need(machine->resume());
    const LedgerLine line = verify_ledger(*machine);
    EXPECT_TRUE(line.ok) << line.text;
    snapshot(*machine, area("later"));
    EXPECT_EQ(check_ledger(need(open_snapshot(area("later"))).memory), "");
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Of, Shells,
                         ::testing::Values(ShellConfig{1, DirtyTracking::automatic}, ShellConfig{2, DirtyTracking::log},
                                           ShellConfig{2, DirtyTracking::ring}),
                         [](const auto& test) {
                             return std::to_string(test.param.cpus) +
                                    (test.param.dirty == DirtyTracking::ring ? "Ring" : "Log");
                         });

TEST_F(Shells, RefusesWhatDoesNotFit) {
    save_ledger(1);
    expect_refusal(need_error(open_snapshot(area(), {}, make_shell({1}, 2 * kMemory).take_addresses())),
                   "reserved for other memory blocks than the snapshot's (64 MiB)");

    Shell two = make_shell({2});
    RestoredSnapshot restored = need(open_snapshot(area(), {}, two.take_addresses()));
    expect_refusal(need_error(Machine::restore(std::move(two), restored.saved, std::move(restored.memory))),
                   "the shell has 2 vCPUs, the machine 1");

    // Trap: memory at other addresses, where the guest would find nothing.
    restored = need(open_snapshot(area()));
    expect_refusal(need_error(Machine::restore(make_shell({1}), restored.saved, std::move(restored.memory))),
                   "the shell's memory slots are not over the machine's memory");

    Shell log = make_shell({1, DirtyTracking::log});
    restored = need(open_snapshot(area(), {}, log.take_addresses()));
    expect_refusal(need_error(Machine::restore(std::move(log), restored.saved, std::move(restored.memory),
                                               {.dirty = DirtyTracking::ring})),
                   "the shell tracks writes in another way");
}

// A shell that gets no machine leaves nothing behind.
TEST_F(Shells, CanBeThrownAway) {
    const auto open_files = [] {
        return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                             std::filesystem::directory_iterator());
    };
    EXPECT_EQ(make_shell({2}).vcpus().size(), 2U);
    const auto before = open_files();
    for (int i = 0; i < 8; ++i) {
        EXPECT_EQ(make_shell({2}).vcpus().size(), 2U);
    }
    EXPECT_EQ(open_files(), before);
}

}  // namespace
}  // namespace snapvm::test
