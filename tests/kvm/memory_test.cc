// SPDX-License-Identifier: Apache-2.0
// Traps of memory and areas with real machines: pages written by the VMM, "not resident", restored
// machines, overwriting, identities.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>

#include "devices/platform/vmgenid/vmgenid.h"
#include "snapshot/report/verify.h"
#include "tests/kvm/harness.h"
#include "vmm/base/fd.h"
#include "vmm/control/machine_source.h"
#include "vmm/platform/platform.h"

namespace snapvm::test {
namespace {

using GenerationId = std::array<std::byte, 16>;

GenerationId generation_id(const Machine& machine) {
    return need(machine.memory().load<GenerationId>(platform::kVmGenIdBase));
}

std::uint64_t generation_count(const Machine& machine) {
    const SavedMachine saved = need(machine.save());
    return need(
               VmGenIdStateV1::decode(std::ranges::find(saved.records, RecordKind::vmgenid, &StateRecord::kind)->bytes))
        .generation;
}

class MemoryTrap : public KvmTest {
protected:
    [[nodiscard]] std::filesystem::path parent_folder() const override {
        return std::filesystem::temp_directory_path();
    }
    // Drops the area's page cache.
    void drop_cache(const AreaPath& path) {
        const UniqueFd fd = need(open_file(path.path, O_RDWR));
        ASSERT_EQ(::fsync(fd.get()), 0);
        ASSERT_EQ(::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    }
    static std::vector<std::string> page_differences(const AreaPath& a, const AreaPath& b) {
        std::vector<std::string> lines = need(compare_snapshots(a, b));
        std::erase_if(lines, [](const std::string& line) { return line.starts_with("state record "); });
        return lines;
    }
};

// Trap: pages written by the VMM itself. No guest has written these, so only the population scan
// finds them.
TEST_F(MemoryTrap, PagesTheVmmWroteAreInTheSnapshot) {
    const std::unique_ptr<Machine> machine = create_ledger({.cpus = 2, .cmdline = "ws=1M hz=77"});
    snapshot(*machine, area());
    const RestoredSnapshot restored = need(open_snapshot(area()));
    for (const Gpa at : {platform::kGdt, platform::kPvhStartInfo, platform::kPvhMemoryMap, platform::kCommandLine,
                         platform::kFirmwareBase, platform::kVmGenIdBase, platform::kOneMiB + kPageSize}) {
        using Page = std::array<std::byte, 512>;
        const Page want = need(machine->memory().load<Page>(at));
        EXPECT_NE(want, Page{}) << std::hex << at.value;
        EXPECT_EQ(need(restored.memory.load<Page>(at)), want) << std::hex << at.value;
    }
}

// Only the VMM writes the page of the generation ID, also while the machine runs and is restored.
TEST_F(MemoryTrap, GenerationIdChangesWhenARestoredMachineFirstRuns) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1});
    const GenerationId id = generation_id(*machine);
    snapshot(*machine, area());
    std::array<GenerationId, 2> clones;
    for (GenerationId& clone : clones) {
        const std::unique_ptr<Machine> restored = restore(area());
        EXPECT_EQ(generation_id(*restored), id) << "changed before it ran";
        EXPECT_EQ(generation_count(*restored), 0U);
        need(restored->resume());
        EXPECT_NE(generation_id(*restored), id);
        clone = generation_id(*restored);
        // The guest has noticed the new ID and rebased its clocks, so it reports no fault.
        const LedgerLine line = verify_ledger(*restored);
        EXPECT_TRUE(line.ok) << line.text;
        // The ID changes once for each restore, not for each resume.
        need(restored->pause());
        need(restored->resume());
        EXPECT_EQ(generation_id(*restored), clone);
        snapshot(*restored, area("next"));
        const std::unique_ptr<Machine> next = restore(area("next"));
        EXPECT_EQ(generation_id(*next), clone);
        EXPECT_EQ(generation_count(*next), 1U);
    }
    EXPECT_NE(clones[0], clones[1]) << "clones share an identity";
    EXPECT_EQ(generation_id(*machine), id);
}

// Trap: "not resident" is taken for "empty".
TEST_F(MemoryTrap, DroppedPageCacheIsNotEmptyMemory) {
    {
        const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 2, .cmdline = "ws=8M rate=0"});
        snapshot(*machine, area("a"));
    }
    drop_cache(area("a"));
    {
        const std::unique_ptr<Machine> restored = restore(area("a"));
        snapshot(*restored, area("c"));
    }
    EXPECT_EQ(page_differences(area("a"), area("c")), std::vector<std::string>{});
    // The same must hold if some pages were written, some read and some neither, and the page cache
    // is dropped.
    const std::unique_ptr<Machine> restored = restore(area("a"));
    need(restored->resume());
    run_a_while(20ms);
    drop_cache(area("a"));
    run_a_while(20ms);
    snapshot(*restored, area("d"));
    EXPECT_EQ(check_ledger(need(open_snapshot(area("d"))).memory), "");
    EXPECT_EQ(need(verify_area(area("d"))).fault_count, 0U);
    expect_sound_end(*restored);
}

// Trap: the file that backs a running clone is overwritten.
TEST_F(MemoryTrap, AreaBehindAMachineIsNotOverwritten) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1});
    snapshot(*machine, area());
    std::unique_ptr<Machine> restored = restore(area());
    need(restored->resume());
    for (Machine* writer : {machine.get(), restored.get()}) {
        MachineSnapshotSource source(*writer);
        const Error error = need_error(write_snapshot(source, area(), {}));
        EXPECT_EQ(error.kind(), ErrorKind::busy);
        EXPECT_NE(error.message().find(area().path), std::string::npos) << error.message();
        EXPECT_FALSE(error.advice().empty()) << error.message();
        EXPECT_EQ(writer->state(), Machine::State::running) << "a refused snapshot has stopped the machine";
    }
    EXPECT_EQ(need(verify_area(area())).fault_count, 0U);
    expect_sound_end(*restored);
    // An ended machine still maps the area. The area is free when the machine's memory is.
    MachineSnapshotSource source(*machine);
    EXPECT_EQ(need_error(write_snapshot(source, area(), {})).kind(), ErrorKind::busy);
    restored.reset();
    need(write_snapshot(source, area(), {}));
    expect_sound_end(*machine);
}

// A restored machine's writes are private: the area that it maps does not change, and two machines
// on it do not see each other's writes.
TEST_F(MemoryTrap, RestoredMachinesDoNotWriteIntoTheArea) {
    snapshot(*boot_ledger({.cpus = 1, .cmdline = "ws=2M rate=0"}), area());
    const std::unique_ptr<Machine> first = restore(area());
    const std::unique_ptr<Machine> second = restore(area());
    need(first->resume());
    need(second->resume());
    std::this_thread::sleep_for(20ms);
    EXPECT_TRUE(verify_ledger(*first).ok);
    EXPECT_TRUE(verify_ledger(*second).ok);
    EXPECT_EQ(need(verify_area(area())).fault_count, 0U);
    EXPECT_EQ(check_ledger(need(open_snapshot(area())).memory), "");
}

}  // namespace
}  // namespace snapvm::test
