// SPDX-License-Identifier: Apache-2.0
// Machines whose writes to a disk are gone when they end.
#include <filesystem>

#include "tests/kvm/ledger_guest.h"
#include "tests/support/result_matchers.h"
#include "vmm/control/machine_service.h"

namespace snapvm::test {
namespace {

class EphemeralMachine : public KvmTest {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        if (!IsSkipped()) {
            write_file(base(), before_);
        }
    }
    [[nodiscard]] std::string base() const { return area("base").path; }
    [[nodiscard]] DiskConfig disk(Ephemeral how) const { return {.id = "ledger", .path = base(), .ephemeral = how}; }
    static LedgerOptions with(const DiskConfig& disk) {
        LedgerOptions options{.cmdline = "ws=1M seen=1 disk=1 rate=0"};
        options.devices.disks = {disk};
        return options;
    }

    const Bytes before_ = Bytes(1 << 20, 'x');
};

TEST_F(EphemeralMachine, TwoWriteOneDiskAtATime) {
    for (const Ephemeral how : {Ephemeral::memory, Ephemeral::file}) {
        SCOPED_TRACE(name_of(how));
        std::unique_ptr<Machine> one = boot_ledger(with(disk(how)));
        std::unique_ptr<Machine> other = boot_ledger(with(disk(how)));
        wait_for_records(*one, 100);
        wait_for_records(*other, 100);
        // Each guest finds on its disk what it has written.
        expect_sound_end(*one);
        one.reset();
        expect_sound_end(*other);
    }
    EXPECT_TRUE(read_file(base()) == before_);
}

TEST_F(EphemeralMachine, ASnapshotIsRefusedBeforeItsAreaIsTouched) {
    std::unique_ptr<Machine> machine = boot_ledger(with(disk(Ephemeral::memory)));
    MachineService service(*machine, "ephemeral");
    SnapshotRequest request;
    request.area = area();
    const auto refused = service.snapshot(request);
    EXPECT_TRUE(fails(refused, ErrorKind::unsupported, "disk ledger is ephemeral, and a snapshot would lack"));
    EXPECT_TRUE(fails(service.start_snapshot(request), ErrorKind::unsupported, "is ephemeral"));
    EXPECT_FALSE(std::filesystem::exists(area().path));
    wait_for_records(*machine, disk_header(machine->memory()).submitted + 1);  // it goes on
    expect_sound_end(*machine);
}

TEST_F(EphemeralMachine, AtItsLimitItStopsAndSaysSo) {
    DiskConfig small = disk(Ephemeral::memory);
    small.ephemeral_max = 256ULL << 10;
    small.write_errors = WriteErrors::stop;
    std::unique_ptr<Machine> machine = create_ledger(with(small));
    need(machine->resume());
    ASSERT_TRUE(eventually([&] { return machine->pause_reason().has_value(); }));
    const std::string why = machine->pause_reason()->message();
    EXPECT_NE(why.find("ephemeral, at most 256K"), std::string::npos) << why;
    EXPECT_NE(why.find("no space is left"), std::string::npos) << why;
    machine.reset();
    EXPECT_TRUE(read_file(base()) == before_);
}

}  // namespace
}  // namespace snapvm::test
