// SPDX-License-Identifier: Apache-2.0
// An area that claims a large machine in a small file costs little to look at and to refuse.
#include <fstream>
#include <string>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/support/forged_area.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

class Claims : public SnapshotTest {
protected:
    /// Writes a snapshot of a machine with so much memory, all of it absent.
    void forge(std::uint64_t memory_bytes) {
        SavedMachine machine;
        machine.config.memory_bytes = memory_bytes;
        machine.config.kernel = "builtin:fake";
        for (const RecordOwner& owner : record_owners(machine.config)) {
            machine.records.push_back({.kind = owner.kind, .version = 1, .instance = owner.instance, .bytes = {}});
        }
        forge_area(area(), machine, *Uuid::random());
    }
    /// Returns a value of /proc/self/status, in KiB: VmPeak, the most address space that was
    /// mapped, or VmHWM, the most memory.
    static std::uint64_t status(const std::string& name) {
        std::ifstream in("/proc/self/status");
        for (std::string line; std::getline(in, line);) {
            if (line.starts_with(name + ":")) {
                return std::stoull(line.substr(name.size() + 1));
            }
        }
        return 0;
    }
    // A sanitizer keeps freed memory.
    static void expect_less(const std::string& name, std::uint64_t limit) {
        if (SNAPVM_SANITIZED == 0) {
            EXPECT_LT(status(name), limit);
        }
    }
};

TEST_F(Claims, WhatIsRefusedIsNotMapped) {
    constexpr std::uint64_t kHuge = 1000ULL << 30;
    forge(kHuge);
    const std::uint64_t before = status("VmPeak");
    EXPECT_TRUE(
        fails(open_snapshot(area(), {.max_memory_bytes = kHuge - 1}), ErrorKind::unsupported, "give --max-mem 1000G"));
    expect_less("VmPeak", before + (64U << 10));
    EXPECT_TRUE(ok(config_in(area()))) << "maps nothing";
}

TEST_F(Claims, AMachineMayHaveWhatTheCallerAllows) {
    FakeMachine machine;
    ASSERT_OK(write_snapshot(machine, area(), {}));
    EXPECT_TRUE(ok(open_snapshot(area(), {.max_memory_bytes = 8 << 20})));
    EXPECT_TRUE(
        fails(open_snapshot(area(), {.max_memory_bytes = 6 << 20}), ErrorKind::unsupported, "and the most is 6M"));
}

// The page entries of 16 GiB alone are 32 MiB.
TEST_F(Claims, AReportTakesNoMemoryByTheClaim) {
    forge(16ULL << 30);
    const std::uint64_t before = status("VmHWM");
    const auto info = inspect_area(area());
    ASSERT_OK(info);
    EXPECT_EQ(info->blocks.front().pages[static_cast<std::size_t>(PageClass::absent)],
              info->blocks.front().spec.pages());
    EXPECT_TRUE(ok(verify_area(area())));
    expect_less("VmHWM", before + (24U << 10));
}

}  // namespace
}  // namespace snapvm::test
