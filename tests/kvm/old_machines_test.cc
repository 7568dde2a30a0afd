// SPDX-License-Identifier: Apache-2.0
// Machines that earlier versions saved must go on.
#include "tests/kvm/harness.h"
#include "tests/support/old_versions.h"

namespace snapvm::test {
namespace {

class OldMachines : public KvmTest {};

TEST_F(OldMachines, GoOnWhereTheyWereStopped) {
    unsigned ran = 0;
    std::string refused;
    for (const auto& packed : old_areas()) {
        SCOPED_TRACE(packed.string());
        const AreaPath path = area(packed.stem().string());
        unpack_area(packed, path.path);
        RestoredSnapshot restored = need(open_snapshot(path));
        auto machine = Machine::restore(system(), restored.saved, std::move(restored.memory), {});
        if (!machine && machine.error().kind() == ErrorKind::unsupported) {
            refused = machine.error().message();
            continue;
        }
        need(Status(machine ? Status{} : fail(machine.error())));
        need((*machine)->resume());
        const LedgerLine line = verify_ledger(**machine);
        EXPECT_TRUE(line.ok) << line.text;
        expect_sound_end(**machine);
        ++ran;
    }
    if (ran == 0) {
        GTEST_SKIP() << "this processor lacks features of their vCPUs: " << refused;
    }
}

}  // namespace
}  // namespace snapvm::test
