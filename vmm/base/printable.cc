// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/printable.h"

#include <cstddef>
#include <cstdint>

namespace snapvm {
namespace {

/// The bytes of one character, or one byte that is part of none.
struct Character {
    std::size_t size = 1;
    std::uint32_t code = 0;
    bool valid = false;
};

// Decodes UTF-8 (RFC 3629) without overlong forms and surrogates.
Character decode(std::string_view text) {
    const auto byte = [&](std::size_t i) -> std::uint32_t { return static_cast<unsigned char>(text[i]); };
    const std::uint32_t first = byte(0);
    if (first < 0x80) {
        return {1, first, true};
    }
    const std::size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || text.size() < size) {
        return {};
    }
    std::uint32_t code = first & (0x7FU >> size);
    for (std::size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xC0) != 0x80) {
            return {};
        }
        code = code << 6 | (byte(i) & 0x3F);
    }
    const bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
    const bool none = overlong || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF;
    return none ? Character{} : Character{size, code, true};
}

// Whether a terminal does something else with the character than to show it. 0x80 to 0x9F are the
// controls of ISO 6429. The rest separates lines or changes the direction of text.
bool is_obeyed(std::uint32_t code) {
    return (code < 0x20 && code != '\t') || (code >= 0x7F && code < 0xA0) || code == 0x61C ||
           (code >= 0x200E && code <= 0x200F) || (code >= 0x2028 && code <= 0x202E) ||
           (code >= 0x2066 && code <= 0x2069);
}

void append_hex(std::string& out, const char* prefix, std::uint32_t value, int digits) {
    out += prefix;
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
        out += "0123456789abcdef"[value >> shift & 0xF];
    }
}

template <class Escape>
std::string escaped(std::string_view text, bool keep_lines, Escape escape) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const Character character = decode(text);
        const std::string_view bytes = text.substr(0, character.size);
        const bool kept = keep_lines && character.code == '\n';
        if (character.valid && (kept || !is_obeyed(character.code))) {
            out += bytes;
        } else {
            escape(out, bytes, character.code);
        }
        text.remove_prefix(character.size);
    }
    return out;
}

void escape_bytes(std::string& out, std::string_view bytes, std::uint32_t /*code*/) {
    for (const char byte : bytes) {
        append_hex(out, "\\x", static_cast<unsigned char>(byte), 2);
    }
}

}  // namespace

std::string printable(std::string_view text) { return escaped(text, /*keep_lines=*/false, escape_bytes); }

std::string printable_lines(std::string_view text) { return escaped(text, /*keep_lines=*/true, escape_bytes); }

// dump() escapes characters below 0x20 itself, so a line end is between values.
std::string printable_json(std::string_view json) {
    return escaped(json, /*keep_lines=*/true, [](std::string& out, std::string_view /*bytes*/, std::uint32_t code) {
        append_hex(out, "\\u", code, 4);
    });
}

}  // namespace snapvm
