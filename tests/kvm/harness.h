// SPDX-License-Identifier: Apache-2.0
// What the tests that need /dev/kvm share: the opened system (or a skip that says why), a folder
// for areas, ledger machines, and the conversation with them.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>

#include "guest-images/ledger/ledger_verify.h"
#include "snapshot/restore/restore.h"
#include "snapshot/source/source.h"
#include "snapshot/write/write_snapshot.h"
#include "tests/support/need.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/machine.h"

namespace snapvm::test {

/// The contents of the ledger's line "LEDGER OK steps= pages= ticks= gen= skew_ms=".
struct LedgerLine {
    std::string text;
    bool ok = false;
    std::uint64_t steps = 0;
    std::uint64_t pages = 0;
    std::uint64_t ticks = 0;
    std::int64_t skew_ms = 0;
};

struct LedgerOptions {
    std::uint32_t cpus = 1;
    std::string cmdline = "ws=4M rate=0";
    std::uint64_t memory_bytes = 64ULL << 20;
    bool linux64 = false;
    HostSetup host = {};
    DeviceConfig devices = {};
};

class KvmTest : public ::testing::Test {
protected:
    void SetUp() override;
    void TearDown() override;
    /// Returns the folder for areas: /dev/shm if there is one. (On a disk mounted with `discard`,
    /// deleting an area with many holes takes seconds, because each extent is discarded
    /// separately.) Tests of the disk's page cache override this with the temporary folder.
    [[nodiscard]] virtual std::filesystem::path parent_folder() const;

    /// Returns /dev/kvm, which is opened once in a process.
    static const kvm::System& system();
    [[nodiscard]] AreaPath area(std::string_view name = "area") const { return {(folder_ / name).string(), 0}; }
    /// Returns a number in [0, below) from a generator with a fixed seed, so that a failure can be
    /// repeated.
    std::uint64_t random(std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
    }
    /// Sleeps for a random time below `most` while the guest runs.
    void run_a_while(std::chrono::microseconds most);

    /// Creates a ledger machine without starting it.
    static std::unique_ptr<Machine> create_ledger(const LedgerOptions& options);
    /// Creates a ledger machine, starts it and waits for READY.
    static std::unique_ptr<Machine> boot_ledger(const LedgerOptions& options);

    static SnapshotReport snapshot(Machine& machine, const AreaPath& path, const WriteOptions& options = {});
    /// Returns the restored machine, paused before its first instruction.
    static std::unique_ptr<Machine> restore(const AreaPath& path, const HostSetup& host = {});

private:
    std::filesystem::path folder_;
    std::mt19937_64 random_{20240607};
};

/// Sends all bytes to the guest's serial port.
void send(Machine& machine, std::string_view bytes);
/// Returns the guest's next whole line that contains `part`, from `position` on, which moves behind
/// it. Returns nothing if the line does not come.
std::optional<std::string> wait_line(Machine& machine, std::string_view part, std::uint64_t& position);
/// Makes the ledger verify itself (command `v`), and returns its answer.
LedgerLine verify_ledger(Machine& machine);
/// Returns how the run ended. Fails the test if it does not end.
Outcome wait_end(Machine& machine);
/// Sends `q`, on which the guest verifies everything and ends. Expects exit code 0.
void expect_sound_end(Machine& machine);
/// Checks the ledger in a memory that does not change, from outside. Returns "" if it is sound.
std::string check_ledger(const GuestMemory& memory);
/// Returns the guest address of page `number` of the ledger's working set.
Gpa ledger_page(const GuestMemory& memory, std::uint64_t number);

}  // namespace snapvm::test
