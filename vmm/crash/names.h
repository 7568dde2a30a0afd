// SPDX-License-Identifier: Apache-2.0
// The names and the order of a crash report's values.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/crash/report.h"
#include "vmm/kvm/abi.h"

namespace snapvm::crash {

/// Returns "KVM_EXIT_SHUTDOWN" and the like, or "unknown" for an exit without a name here.
[[nodiscard]] std::string_view exit_name(std::uint32_t exit);
/// Returns "KVM_INTERNAL_ERROR_EMULATION" and the like, or "unknown".
[[nodiscard]] std::string_view suberror_name(std::uint64_t suberror);

using NamedValue = std::pair<const char*, std::uint64_t>;
[[nodiscard]] std::array<NamedValue, 18> general_registers(const kvm_regs& regs);
[[nodiscard]] std::array<NamedValue, 5> control_registers(const kvm_sregs& sregs);
[[nodiscard]] std::array<std::pair<const char*, kvm_segment>, 8> segments(const kvm_sregs& sregs);
[[nodiscard]] std::array<std::pair<const char*, kvm_dtable>, 2> tables(const kvm_sregs& sregs);
/// Returns bits 40 to 55 of a descriptor, without the bits of the limit.
[[nodiscard]] std::uint16_t attributes(const kvm_segment& segment);

/// Returns hexadecimal digits, at least `digits`, without a prefix.
[[nodiscard]] std::string hex(std::uint64_t value, int digits = 1);
/// Returns "0f 0b" for two bytes.
[[nodiscard]] std::string hex_bytes(const std::vector<std::byte>& bytes, std::string_view between = " ");

}  // namespace snapvm::crash
