// SPDX-License-Identifier: Apache-2.0
// What the tests of the ledger guest's devices share: its records on a disk, and its answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guest-images/ledger/ledger_disk_verify.h"
#include "tests/kvm/harness.h"

namespace snapvm::test {

using Bytes = std::vector<char>;

[[nodiscard]] ledger::DiskHeader disk_header(const GuestMemory& memory);
/// Compares a memory that does not change with a disk's bytes. Returns "" if they are of one
/// moment.
[[nodiscard]] std::string check_disk(const GuestMemory& memory, const Bytes& disk);
/// Waits until the guest has submitted `count` records in all.
void wait_for_records(Machine& machine, std::uint64_t count);

[[nodiscard]] Bytes read_file(const std::string& path);
void write_file(const std::string& path, const Bytes& bytes);

/// The contents of a "LEDGER RNG" line.
struct RngLine {
    std::string text;
    std::uint64_t bytes = 0;
    std::string value;
    std::uint64_t interrupts = 0;
    std::uint64_t notifications = 0;
};
/// Makes the guest draw once (command `n`).
[[nodiscard]] RngLine draw(Machine& machine);
/// Waits until the guest has carried out all commands sent before.
void settle(Machine& machine);

}  // namespace snapvm::test
