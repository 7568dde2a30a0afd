// SPDX-License-Identifier: Apache-2.0
// What the tests of the ledger guest's devices share: its books on a disk, and its answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guest-images/ledger/ledger_disk_verify.h"
#include "tests/kvm/harness.h"

namespace snapvm::test {

using Bytes = std::vector<char>;

[[nodiscard]] ledger::DiskHeader disk_header(const GuestMemory& memory);
/// A memory that stands still against a disk's bytes; "" when they are of one moment.
[[nodiscard]] std::string check_disk(const GuestMemory& memory, const Bytes& disk);
/// Returns when it has written so many records in all.
void wait_for_records(Machine& machine, std::uint64_t count);

[[nodiscard]] Bytes read_file(const std::string& path);
void write_file(const std::string& path, const Bytes& bytes);

/// What a "LEDGER RNG" line says.
struct RngLine {
    std::string text;
    std::uint64_t bytes = 0;
    std::string value;
    std::uint64_t interrupts = 0;
    std::uint64_t notifications = 0;
};
/// Has the guest draw once (command `n`).
[[nodiscard]] RngLine draw(Machine& machine);
/// Returns when it has done what it was sent before.
void settle(Machine& machine);

}  // namespace snapvm::test
