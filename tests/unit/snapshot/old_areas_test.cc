// SPDX-License-Identifier: Apache-2.0
// Areas that earlier versions wrote are read as they were meant.
#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/support/old_versions.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm::test {
namespace {

class OldAreas : public SnapshotTest {};

TEST_F(OldAreas, AreIntactAndGiveMemoryAndState) {
    const auto all = old_areas();
    ASSERT_GE(all.size(), 2U);
    for (const auto& packed : all) {
        SCOPED_TRACE(packed.string());
        const AreaPath path = area(packed.stem().string());
        unpack_area(packed, path.path);
        const auto info = inspect_area(path);
        ASSERT_OK(info);
        EXPECT_EQ(info->problem, "");
        const auto verified = verify_area(path);
        ASSERT_OK(verified);
        EXPECT_TRUE(verified->faults.empty()) << verified->faults.front();

        auto restored = open_snapshot(path);
        ASSERT_OK(restored);
        const MachineConfig& config = restored->saved.config;
        EXPECT_EQ(config.kernel, "builtin:ledger");
        EXPECT_EQ(config.cmdline, "ws=64K rate=0");
        EXPECT_TRUE(ok(config.validate()));
        std::uint32_t vcpus = 0;
        for (const StateRecord& record : restored->saved.records) {
            if (record.kind == RecordKind::vcpu) {
                EXPECT_TRUE(ok(VcpuStateV1::decode(record.bytes)));
                ++vcpus;
            }
        }
        EXPECT_EQ(vcpus, config.cpus);

        // Written again by this version, the machine is the same.
        FakeMachine machine(*std::move(restored));
        const AreaPath again = area(packed.stem().string() + "-again");
        ASSERT_OK(write_snapshot(machine, again, {}));
        auto reread = open_snapshot(again);
        ASSERT_OK(reread);
        EXPECT_EQ(reread->saved.config, machine.config());
        EXPECT_EQ(reread->saved.records, machine.records());
        FakeMachine twin(*std::move(reread));
        expect_same_memory(machine, twin);
    }
}

}  // namespace
}  // namespace snapvm::test
