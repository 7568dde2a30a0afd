// SPDX-License-Identifier: Apache-2.0
// Encodes AML, the byte code of ACPI's definition blocks: each function is one term of the grammar and gives its bytes, so that a table
// reads like its source. Source: ACPI specification 6.4, chapter 20 (the grammar) and section 6.4 (resource descriptors).
//
// The terms are the VMM's own, never a guest's: a name that is none, or a body too long for its length field, is a mistake in this
// program, and an assertion.
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

/// The terms one after the other.
[[nodiscard]] Bytes join(Terms terms);

// Data objects (20.2.3).
/// The shortest form there is.
[[nodiscard]] Bytes integer(std::uint64_t value);
[[nodiscard]] Bytes string(std::string_view text);
/// An EISA id such as "PNP0501", packed into an integer (19.6.37).
[[nodiscard]] Bytes eisa_id(std::string_view id);
[[nodiscard]] Bytes package(Terms elements);
[[nodiscard]] Bytes buffer(std::span<const std::byte> bytes);

/// A name (20.2.2): segments of up to four characters, separated by dots; '\' before the first means from the root.
[[nodiscard]] Bytes path(std::string_view name);

// Namespace objects (20.2.5).
[[nodiscard]] Bytes name(std::string_view name, const Bytes& object);
[[nodiscard]] Bytes scope(std::string_view name, const Bytes& terms);
[[nodiscard]] Bytes device(std::string_view name, const Bytes& terms);
enum class Serialized : std::uint8_t { no, yes };
[[nodiscard]] Bytes method(std::string_view name, std::uint8_t arguments, Serialized serialized, Terms body);
/// `size` ports from `base` on.
[[nodiscard]] Bytes port_region(std::string_view name, std::uint16_t base, std::uint8_t size);
/// Fields of eight bits each, from the region's start on; accessed by bytes, without a lock.
[[nodiscard]] Bytes byte_fields(std::string_view region, std::initializer_list<std::string_view> names);

// Statements and expressions (20.2.5).
[[nodiscard]] Bytes argument(std::uint8_t number);
[[nodiscard]] Bytes store(const Bytes& value, const Bytes& to);
[[nodiscard]] Bytes equal(const Bytes& left, const Bytes& right);
[[nodiscard]] Bytes when(const Bytes& condition, Terms body);
[[nodiscard]] Bytes notify(std::string_view device, std::uint8_t value);

// Resource descriptors (section 6.4): each gives one, and `resources` makes a template of them.
/// `count` ports at `base` and nowhere else, all 16 address bits decoded.
[[nodiscard]] Bytes io(std::uint16_t base, std::uint8_t count);
/// Memory that can be written.
[[nodiscard]] Bytes memory32(std::uint32_t base, std::uint32_t size);
enum class Trigger : std::uint8_t { level, edge };
/// A GSI of the device's own; active high.
[[nodiscard]] Bytes interrupt(std::uint32_t gsi, Trigger trigger);
[[nodiscard]] Bytes resources(Terms descriptors);

}  // namespace snapvm::aml
