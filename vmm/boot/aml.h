// SPDX-License-Identifier: Apache-2.0
// Encodes AML, the byte code of ACPI's definition blocks. Each function encodes one term of the
// grammar and returns its bytes, so that the code of a table reads like ASL. Source: ACPI
// specification 6.4, chapter 20 (the grammar) and section 6.4 (resource descriptors).
//
// The terms come from the VMM, never from a guest. A malformed name, or a body too long for its
// length field, is a bug of the VMM and fails an assertion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace snapvm::aml {

using Bytes = std::vector<std::byte>;
using Terms = std::initializer_list<Bytes>;

/// Returns the terms one after the other.
[[nodiscard]] Bytes join(Terms terms);

// Data objects (20.2.3).
/// Encodes an integer in the shortest form.
[[nodiscard]] Bytes integer(std::uint64_t value);
[[nodiscard]] Bytes string(std::string_view text);
/// Encodes an EISA id such as "PNP0501" as an integer (19.6.37).
[[nodiscard]] Bytes eisa_id(std::string_view id);
[[nodiscard]] Bytes package(Terms elements);
[[nodiscard]] Bytes buffer(std::span<const std::byte> bytes);

/// Encodes a name (20.2.2): segments of up to four characters, separated by dots. A '\' before the
/// first segment stands for the root.
[[nodiscard]] Bytes path(std::string_view name);

// Namespace objects (20.2.5).
[[nodiscard]] Bytes name(std::string_view name, const Bytes& object);
[[nodiscard]] Bytes scope(std::string_view name, const Bytes& terms);
[[nodiscard]] Bytes device(std::string_view name, const Bytes& terms);
enum class Serialized : std::uint8_t { no, yes };
[[nodiscard]] Bytes method(std::string_view name, std::uint8_t arguments, Serialized serialized, Terms body);
/// Declares a region of `size` ports from `base` on.
[[nodiscard]] Bytes port_region(std::string_view name, std::uint16_t base, std::uint8_t size);
/// Declares fields of eight bits each, from the region's start on. They are accessed by bytes,
/// without a lock.
[[nodiscard]] Bytes byte_fields(std::string_view region, std::initializer_list<std::string_view> names);

// Statements and expressions (20.2.5).
[[nodiscard]] Bytes argument(std::uint8_t number);
[[nodiscard]] Bytes store(const Bytes& value, const Bytes& to);
[[nodiscard]] Bytes equal(const Bytes& left, const Bytes& right);
[[nodiscard]] Bytes when(const Bytes& condition, Terms body);
[[nodiscard]] Bytes notify(std::string_view device, std::uint8_t value);

// Resource descriptors (section 6.4). Each function encodes one; `resources` makes a template of
// them.
/// Describes `count` ports at the fixed address `base`, with all 16 address bits decoded.
[[nodiscard]] Bytes io(std::uint16_t base, std::uint8_t count);
/// Describes writable memory.
[[nodiscard]] Bytes memory32(std::uint32_t base, std::uint32_t size);
enum class Trigger : std::uint8_t { level, edge };
/// Describes a GSI that no other device uses, active high.
[[nodiscard]] Bytes interrupt(std::uint32_t gsi, Trigger trigger);
[[nodiscard]] Bytes resources(Terms descriptors);

}  // namespace snapvm::aml
