// SPDX-License-Identifier: Apache-2.0
// What the tests that need /dev/kvm share: the opened system (or a skip that says why), a folder for areas, ledger machines, and the
// talk with them.
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
#include "snapshot/restore.h"
#include "snapshot/source.h"
#include "snapshot/writer.h"
#include "tests/support/need.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/machine.h"

namespace snapvm::test {

/// What a ledger's line says: "LEDGER OK steps= pages= ticks= gen= skew_ms=".
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
    /// Where areas go: memory, where there is a /dev/shm. (On a disk mounted with `discard`, to delete an area with many holes takes
    /// seconds: each extent is discarded by itself.) Tests that are about the disk's page cache say the temporary folder.
    [[nodiscard]] virtual std::filesystem::path parent_folder() const;

    /// /dev/kvm, opened once a process.
    static const kvm::System& system();
    [[nodiscard]] AreaPath area(std::string_view name = "area") const { return {(folder_ / name).string(), 0}; }
    /// A number in [0, below): from a generator with a fixed seed, so that a failure comes again.
    std::uint64_t random(std::uint64_t below) { return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_); }
    /// Lets the guest run for up to `most`.
    void run_a_while(std::chrono::microseconds most);

    /// A ledger machine, not started.
    static std::unique_ptr<Machine> create_ledger(const LedgerOptions& options);
    /// The same, running and READY.
    static std::unique_ptr<Machine> boot_ledger(const LedgerOptions& options);

    static SnapshotReport snapshot(Machine& machine, const AreaPath& path, const WriteOptions& options = {});
    /// Restored, paused, never run.
    static std::unique_ptr<Machine> restore(const AreaPath& path, const HostSetup& host = {});

private:
    std::filesystem::path folder_;
    std::mt19937_64 random_{20240607};
};

/// Sends bytes to the guest's serial port, all of them.
void send(Machine& machine, std::string_view bytes);
/// The guest's next whole line that contains `part`, from `position` on (moved behind it); nothing when it does not come.
std::optional<std::string> wait_line(Machine& machine, std::string_view part, std::uint64_t& position);
/// Has the ledger verify itself (command `v`) and reads its answer.
LedgerLine verify_ledger(Machine& machine);
/// How the run ended; fails the test when it does not end.
Outcome wait_end(Machine& machine);
/// Sends `q`: the guest verifies everything and ends; expects exit 0.
void expect_sound_end(Machine& machine);
/// The ledger in a memory that stands still, checked from outside; "" when it is sound.
std::string check_ledger(const GuestMemory& memory);
/// A guest address on a page of the ledger's working set: page `number`.
Gpa ledger_page(const GuestMemory& memory, std::uint64_t number);

}  // namespace snapvm::test
