// SPDX-License-Identifier: Apache-2.0
// Snapshots at random moments under full write load. Each must hold a single instant.
#include <algorithm>
#include <fstream>
#include <thread>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/kvm/harness.h"

namespace snapvm::test {
namespace {

struct Load {
    std::uint32_t cpus;
    const char* pattern;
};

class LedgerMoments : public KvmTest, public ::testing::WithParamInterface<Load> {};

TEST_P(LedgerMoments, EverySnapshotHoldsOneInstant) {
    constexpr int kMoments = 6;
    constexpr int kRestores = 2;  // the guest itself verifies this many of them
    const std::string cmdline = std::string("ws=4M rate=0 seen=1 pattern=") + GetParam().pattern;
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = GetParam().cpus, .cmdline = cmdline});
    for (int moment = 0; moment < kMoments; ++moment) {
        run_a_while(20ms);
        snapshot(*machine, area());
        EXPECT_EQ(check_ledger(need(open_snapshot(area())).memory), "") << "moment " << moment;
        if (moment < kRestores) {
            const std::unique_ptr<Machine> restored = restore(area());
            need(restored->resume());
            const LedgerLine line = verify_ledger(*restored);
            EXPECT_TRUE(line.ok) << line.text;
            expect_sound_end(*restored);
        }
    }
    EXPECT_EQ(need(verify_area(area())).fault_count, 0U);
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Loads, LedgerMoments,
                         ::testing::Values(Load{1, "random"}, Load{1, "seq"}, Load{2, "random"}, Load{2, "hot"},
                                           Load{4, "random"}, Load{4, "seq"}),
                         [](const auto& test) { return std::to_string(test.param.cpus) + test.param.pattern; });

class LedgerFaults : public KvmTest {
protected:
    // Makes an area with a ledger of 2 MiB.
    void make_area() {
        const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=2M rate=0"});
        std::this_thread::sleep_for(10ms);
        snapshot(*machine, area());
    }
    // Flips a bit of guest memory in the area's data section.
    void flip(Gpa at) {
        const AreaInfo info = need(inspect_area(area()));
        const Superblock& superblock = *info.superblocks[*info.chosen].valid;
        const Section* data = superblock.find(SectionKind::data, static_cast<std::uint32_t>(BlockId::ram_low));
        ASSERT_NE(data, nullptr);
        std::fstream file(area().path, std::ios::in | std::ios::out | std::ios::binary);
        char byte = 0;
        file.seekg(static_cast<std::streamoff>(data->offset + at.value)).read(&byte, 1);
        byte = static_cast<char>(byte ^ 0x10);
        file.seekp(static_cast<std::streamoff>(data->offset + at.value)).write(&byte, 1);
        ASSERT_TRUE(file.flush().good());
    }
};

TEST_F(LedgerFaults, FlippedPageByteIsFoundByVerifyAndByTheLedger) {
    make_area();
    const Gpa page = ledger_page(need(open_snapshot(area())).memory, 77);
    flip(page + 1000);
    const VerifyReport report = need(verify_area(area()));
    EXPECT_EQ(report.fault_count, 1U);
    EXPECT_NE(check_ledger(need(open_snapshot(area())).memory).find("page 77"), std::string::npos);
    // Restoring reads no page checksum, so this machine runs, and the guest finds the fault.
    const std::unique_ptr<Machine> machine = restore(area());
    need(machine->memory().load<std::uint64_t>(page));
    EXPECT_NE(check_ledger(machine->memory()), "");
}

// The guest's verifier must report a page that was changed from outside.
TEST_F(LedgerFaults, GuestReportsAPageChangedBehindItsBack) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1, .cmdline = "ws=2M paused=1"});
    need(machine->pause());
    const Gpa page = ledger_page(machine->memory(), 9);
    need(machine->memory().store(page + 2000, std::uint64_t{1}));
    need(machine->resume());
    const LedgerLine line = verify_ledger(*machine);
    EXPECT_FALSE(line.ok);
    EXPECT_NE(line.text.find("LEDGER BAD payload shard=0 page=9"), std::string::npos) << line.text;
    send(*machine, "q");
    EXPECT_EQ(wait_end(*machine).exit_code(), 1);
}

// The stirred region from the first sweep to many: every instant must match one count of writes.
TEST_F(LedgerFaults, AStirredPageThatMissedItsNewestWriteIsFound) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=1M stir=4M"});
    snapshot(*machine, area("early"));
    EXPECT_EQ(check_ledger(need(open_snapshot(area("early"))).memory), "");
    const auto count = [](const GuestMemory& memory, std::uint32_t shard) {
        const auto root = need(memory.load<ledger::Root>(Gpa{ledger::kRootAddress}));
        return need(memory.load<ledger::ShardHeader>(Gpa{ledger::header_address(root, shard)})).stirred;
    };
    const auto root = need(machine->memory().load<ledger::Root>(Gpa{ledger::kRootAddress}));
    ASSERT_EQ(root.stir_pages, 1024U);
    const std::uint64_t sweep = ledger::stir_share(root, 1);
    for (const auto until = soon(); count(machine->memory(), 1) < 3 * sweep && SteadyClock::now() < until;) {
        std::this_thread::sleep_for(1ms);
    }
    snapshot(*machine, area("late"));
    GuestMemory late = need(open_snapshot(area("late"))).memory;
    ASSERT_GE(count(late, 1), 3 * sweep);
    ASSERT_EQ(check_ledger(late), "");
    // Each page gets its word of one sweep before, over the second vCPU's share. Only at the newest
    // write does that make another valid moment.
    unsigned found = 0;
    for (std::uint64_t page = 0; page < sweep; page += 16) {
        const Gpa at{root.stir + (ledger::stir_first(root, 1) + page) * kPageSize};
        const auto word = need(late.load<std::uint64_t>(at));
        need(late.store(at, word - sweep));
        found += check_ledger(late).starts_with("stir") ? 1 : 0;
        need(late.store(at, word));
    }
    EXPECT_GE(found, sweep / 16 - 1);
    EXPECT_EQ(check_ledger(late), "");
    EXPECT_TRUE(verify_ledger(*machine).ok);
    expect_sound_end(*machine);
}

// A page of one instant among pages of another, at any place, as a torn copy would contain it.
TEST_F(LedgerFaults, MixedInstantsAreFoundFromOutside) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=1M rate=0 seen=1"});
    snapshot(*machine, area("early"));
    std::this_thread::sleep_for(30ms);
    snapshot(*machine, area("late"));
    const GuestMemory early = need(open_snapshot(area("early"))).memory;
    GuestMemory late = need(open_snapshot(area("late"))).memory;
    ASSERT_EQ(check_ledger(late), "");
    int mixed = 0;
    for (std::uint64_t number = 0; number < 256; number += 17) {
        const Gpa at = ledger_page(late, number);
        const auto old_page = need(early.load<std::array<std::byte, kPageSize>>(at));
        const auto new_page = need(late.load<std::array<std::byte, kPageSize>>(at));
        if (old_page == new_page) {
            continue;
        }
        need(late.store(at, old_page));
        // The one page of an update in progress may be of either instant.
        mixed += check_ledger(late).empty() ? 0 : 1;
        need(late.store(at, new_page));
    }
    EXPECT_GE(mixed, 10);
    EXPECT_EQ(check_ledger(late), "");
}

}  // namespace
}  // namespace snapvm::test
