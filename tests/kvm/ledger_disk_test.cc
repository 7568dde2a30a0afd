// SPDX-License-Identifier: Apache-2.0
// The ledger across memory and disk. Memory and disk that come back together must match, and a disk
// of another moment must be found, by the guest and from outside.
#include <algorithm>
#include <cstddef>
#include <stdexcept>

#include "guest-images/ledger/cpu.h"
#include "tests/kvm/ledger_guest.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kDiskBytes = 1ULL << 20;
constexpr std::uint64_t kLookIn = 16ULL << 20;  // the guest's image is below this address
constexpr std::uint64_t kBlocks = kDiskBytes / ledger::kBlockBytes;

class LedgerDisk : public KvmTest {
protected:
    [[nodiscard]] std::string disk_path() const { return area("disk").path; }
    [[nodiscard]] Bytes disk() const { return read_file(disk_path()); }
    void put_disk(const Bytes& bytes) const { write_file(disk_path(), bytes); }
    std::unique_ptr<Machine> boot(std::uint32_t cpus, const std::string& cmdline) {
        put_disk(Bytes(kDiskBytes, 'x'));  // like a disk that was used before
        LedgerOptions options{.cpus = cpus, .cmdline = cmdline};
        options.devices.disks = {{.id = "ledger", .path = disk_path()}};
        return boot_ledger(options);
    }
    /// Snapshots the machine into an area and ends it, so that neither memory nor disk change after
    /// the snapshot.
    Bytes end_into(std::unique_ptr<Machine> machine, const AreaPath& path) const {
        WriteOptions options;
        options.keep_frozen = true;
        snapshot(*machine, path, options);
        machine.reset();
        return disk();
    }
    /// Pauses the guest's steps, and waits until all of its requests are done.
    static void hold_steps(Machine& machine) {
        send(machine, "p");
        const LedgerLine line = verify_ledger(machine);
        EXPECT_TRUE(line.ok) << line.text;
    }
    /// Returns what the guest in an area reports about a disk.
    LedgerLine verdict(const AreaPath& path, const Bytes& bytes) const {
        put_disk(bytes);
        const auto machine = restore(path);
        need(machine->resume());
        return verify_ledger(*machine);
    }
    /// Returns the address of the guest's PerCpu, which contains its own address.
    static Gpa first_cpu(const Machine& machine) {
        for (Gpa at{sizeof(guest::PerCpu)}; at.value < kLookIn; at = at + sizeof(guest::PerCpu)) {
            if (need(machine.memory().load<std::uint64_t>(at + PERCPU_SELF)) == at.value) {
                return at;
            }
        }
        throw std::runtime_error("the ledger guest has no PerCpu");
    }
    static std::string outside(const AreaPath& path, const Bytes& bytes) {
        return check_disk(need(open_snapshot(path)).memory, bytes);
    }
};

struct DiskLoad {
    std::uint32_t cpus;
    const char* cmdline;
};

class LedgerDiskMoments : public LedgerDisk, public ::testing::WithParamInterface<DiskLoad> {};

// Requests are in flight at most of these moments.
TEST_P(LedgerDiskMoments, MemoryAndDiskAreOfOne) {
    std::unique_ptr<Machine> machine = boot(GetParam().cpus, std::string("ws=1M seen=1 disk=1 ") + GetParam().cmdline);
    wait_for_records(*machine, 1);
    for (int moment = 0; moment < 8; ++moment) {
        SCOPED_TRACE(moment);
        run_a_while(20ms);
        const std::uint64_t records = disk_header(machine->memory()).submitted;
        const AreaPath path = area(moment % 2 == 0 ? "even" : "odd");
        const Bytes bytes = end_into(std::move(machine), path);
        EXPECT_EQ(outside(path, bytes), "");
        EXPECT_EQ(check_ledger(need(open_snapshot(path)).memory), "");
        machine = restore(path);
        need(machine->resume());
        const LedgerLine line = verify_ledger(*machine);
        ASSERT_TRUE(line.ok) << line.text;
        wait_for_records(*machine, records + 1);
    }
    // Goes once more around the disk, so that records are overwritten.
    wait_for_records(*machine, kBlocks + 100);
    const LedgerLine line = verify_ledger(*machine);
    EXPECT_TRUE(line.ok) << line.text;
    EXPECT_NE(line.text.find(" records="), std::string::npos) << line.text;
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Loads, LedgerDiskMoments,
                         ::testing::Values(DiskLoad{1, "rate=0"}, DiskLoad{1, "rate=0 virtio=plain"},
                                           DiskLoad{1, "hz=1000 rate=2000 diskevery=3"}, DiskLoad{4, "rate=0"},
                                           DiskLoad{2, "rate=0 virtio=plain diskevery=2"}));

// The verifiers must find faults, too.
TEST_F(LedgerDisk, ADiskOfAnotherMomentIsFound) {
    std::unique_ptr<Machine> machine = boot(2, "ws=1M rate=0 seen=1 disk=1");
    wait_for_records(*machine, kBlocks + 10);
    hold_steps(*machine);
    const AreaPath early = area("early");
    const Bytes early_disk = end_into(std::move(machine), early);
    const std::uint64_t early_records = disk_header(need(open_snapshot(early)).memory).submitted;

    const auto run_on = [&](const AreaPath& path, std::uint64_t records) {
        put_disk(early_disk);
        machine = restore(early);
        need(machine->resume());
        send(*machine, "c");
        wait_for_records(*machine, records);
        hold_steps(*machine);
        return end_into(std::move(machine), path);
    };
    const AreaPath late = area("late");
    const Bytes late_disk = run_on(late, early_records + 20);
    const Bytes clones_disk = run_on(area("clone"), early_records + 20);

    const auto expect_found = [&](const AreaPath& path, const Bytes& bytes, const char* what) {
        EXPECT_NE(outside(path, bytes), "") << what;
        const LedgerLine line = verdict(path, bytes);
        EXPECT_NE(line.text.find("LEDGER BAD disk_"), std::string::npos) << what << ": " << line.text;
    };
    expect_found(late, early_disk, "an older disk");
    expect_found(early, late_disk, "a newer disk");
    expect_found(late, clones_disk, "the disk of another clone");
    expect_found(early, Bytes(kDiskBytes, '\0'), "an empty disk");
    for (const auto& [path, bytes] : {std::pair(early, early_disk), std::pair(late, late_disk)}) {
        EXPECT_EQ(outside(path, bytes), "");
        const LedgerLine line = verdict(path, bytes);
        EXPECT_TRUE(line.ok) << line.text;
    }
}

// What the clocks say depends on the host, so a clock fault is reported only if there is no other.
TEST_F(LedgerDisk, AClockThatWentBackwardsHidesNoDiskOfAnotherMoment) {
    std::unique_ptr<Machine> machine = boot(1, "ws=1M rate=0 disk=1");
    wait_for_records(*machine, 20);
    hold_steps(*machine);
    const AreaPath path = area();
    const Bytes bytes = end_into(std::move(machine), path);
    for (const auto& [disk, finding] :
         {std::pair(Bytes(kDiskBytes, '\0'), "LEDGER BAD disk_record"), std::pair(bytes, "LEDGER BAD clock")}) {
        put_disk(disk);
        machine = restore(path);
        need(machine->memory().store(first_cpu(*machine) + offsetof(guest::PerCpu, clock_backwards), std::uint64_t{1}));
        need(machine->resume());
        const LedgerLine line = verify_ledger(*machine);
        EXPECT_NE(line.text.find(finding), std::string::npos) << line.text;
        machine.reset();
    }
}

// One block lacks its newest write, or has a wrong byte.
TEST_F(LedgerDisk, ABlockOfAnotherMomentIsFound) {
    std::unique_ptr<Machine> machine = boot(1, "ws=1M rate=0 disk=1");
    wait_for_records(*machine, 20);
    const Bytes early = end_into(std::move(machine), area("early"));
    machine = restore(area("early"));
    const std::uint64_t before = disk_header(machine->memory()).submitted;
    need(machine->resume());
    wait_for_records(*machine, before + 2 * kBlocks);  // every block is overwritten, wherever the records had come to
    hold_steps(*machine);
    const AreaPath path = area("late");
    Bytes late = end_into(std::move(machine), path);
    const GuestMemory memory = need(open_snapshot(path)).memory;
    ASSERT_EQ(check_disk(memory, late), "");
    for (std::uint64_t block = 0; block < kBlocks; block += 15) {
        const auto at = static_cast<std::ptrdiff_t>(block * ledger::kBlockBytes);
        const Bytes is(late.begin() + at, late.begin() + at + kPageSize);
        std::copy_n(early.begin() + at, kPageSize, late.begin() + at);
        EXPECT_NE(check_disk(memory, late), "") << block;
        std::ranges::copy(is, late.begin() + at);
        late[static_cast<std::size_t>(at) + block] ^= 1;
        EXPECT_NE(check_disk(memory, late), "") << block;
        late[static_cast<std::size_t>(at) + block] ^= 1;
    }
    EXPECT_EQ(check_disk(memory, late), "");
}

TEST_F(LedgerDisk, WithoutADiskItSaysSo) {
    const auto machine = boot_ledger({.cpus = 1, .cmdline = "ws=1M disk=1"});
    std::uint64_t position = 0;
    EXPECT_TRUE(wait_line(*machine, "LEDGER BAD setup no disk", position).has_value());
    EXPECT_EQ(wait_end(*machine).exit_code(), 98);
}

}  // namespace
}  // namespace snapvm::test
