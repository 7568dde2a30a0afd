// SPDX-License-Identifier: Apache-2.0
// Names and order of what a crash report shows.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/crash/report.h"
#include "vmm/kvm/abi.h"

namespace snapvm::crash {

/// "KVM_EXIT_SHUTDOWN"; "unknown" for one that we have no name for.
[[nodiscard]] std::string_view exit_name(std::uint32_t exit);
/// "KVM_INTERNAL_ERROR_EMULATION"; likewise.
[[nodiscard]] std::string_view suberror_name(std::uint64_t suberror);

using NamedValue = std::pair<const char*, std::uint64_t>;
[[nodiscard]] std::array<NamedValue, 18> general_registers(const kvm_regs& regs);
[[nodiscard]] std::array<NamedValue, 5> control_registers(const kvm_sregs& sregs);
[[nodiscard]] std::array<std::pair<const char*, kvm_segment>, 8> segments(const kvm_sregs& sregs);
[[nodiscard]] std::array<std::pair<const char*, kvm_dtable>, 2> tables(const kvm_sregs& sregs);
/// As in a descriptor: its bits 40 to 55, the limit's left out.
[[nodiscard]] std::uint16_t attributes(const kvm_segment& segment);

/// At least `digits`, without a prefix.
[[nodiscard]] std::string hex(std::uint64_t value, int digits = 1);
/// "0f 0b"
[[nodiscard]] std::string hex_bytes(const std::vector<std::byte>& bytes, std::string_view between = " ");

}  // namespace snapvm::crash
