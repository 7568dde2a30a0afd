// SPDX-License-Identifier: Apache-2.0
// Little-endian encoders and a bounds-checked decoder. No file holds a memcpy of a struct, so the
// compiler cannot change the format.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

static_assert(std::endian::native == std::endian::little, "snapvm runs on x86-64 only");

/// Appends values to a byte vector.
class Encoder {
public:
    template <std::unsigned_integral T>
    void put(T value) {
        const auto* raw = reinterpret_cast<const std::byte*>(&value);
        bytes_.insert(bytes_.end(), raw, raw + sizeof value);
    }
    void u8(std::uint8_t value) { put(value); }
    void u16(std::uint16_t value) { put(value); }
    void u32(std::uint32_t value) { put(value); }
    void u64(std::uint64_t value) { put(value); }
    void boolean(bool value) { u8(value ? 1 : 0); }
    void raw(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
    /// Appends a u32 length, then the bytes.
    void blob(std::span<const std::byte> bytes) {
        u32(static_cast<std::uint32_t>(bytes.size()));
        raw(bytes);
    }
    void text(std::string_view value) { blob(std::as_bytes(std::span(value))); }
    /// Appends zeros until the vector has `size` bytes. Does nothing if it has more already.
    void pad_to(std::size_t size) {
        if (bytes_.size() < size) {
            bytes_.resize(size);
        }
    }

    [[nodiscard]] std::size_t size() const { return bytes_.size(); }
    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
    [[nodiscard]] std::vector<std::byte> take() { return std::move(bytes_); }

private:
    std::vector<std::byte> bytes_;
};

/// Reads values from untrusted bytes. The first read past the end makes the decoder bad; it stays
/// bad and returns zeros. A caller decodes all fields, then calls `finish()` once.
class Decoder {
public:
    explicit Decoder(std::span<const std::byte> bytes) : rest_(bytes) {}

    template <std::unsigned_integral T>
    T get() {
        T value = 0;
        if (auto part = take(sizeof value); !part.empty()) {
            std::memcpy(&value, part.data(), sizeof value);
        }
        return value;
    }
    std::uint8_t u8() { return get<std::uint8_t>(); }
    std::uint16_t u16() { return get<std::uint16_t>(); }
    std::uint32_t u32() { return get<std::uint32_t>(); }
    std::uint64_t u64() { return get<std::uint64_t>(); }
    /// Makes the decoder bad if the byte is neither 0 nor 1, so that every flipped bit is detected.
    bool boolean() {
        const std::uint8_t value = u8();
        bad_ = bad_ || value > 1;
        return value == 1;
    }
    /// Returns a view of the next `size` bytes of the input. Returns an empty one, and makes the
    /// decoder bad, if fewer are left.
    std::span<const std::byte> take(std::size_t size) {
        if (bad_ || size > rest_.size()) {
            bad_ = true;
            return {};
        }
        auto part = rest_.first(size);
        rest_ = rest_.subspan(size);
        return part;
    }
    /// Reads a u32 length and that many bytes. Makes the decoder bad if the length exceeds `limit`.
    std::span<const std::byte> blob(std::size_t limit) {
        const std::uint32_t size = u32();
        if (size > limit) {
            bad_ = true;
            return {};
        }
        return take(size);
    }
    std::string text(std::size_t limit) {
        auto part = blob(limit);
        return {reinterpret_cast<const char*>(part.data()), part.size()};
    }

    [[nodiscard]] bool bad() const { return bad_; }
    [[nodiscard]] std::size_t left() const { return rest_.size(); }
    /// Fails with invalid if a read went past the end, or if bytes are left over. `what` names the
    /// input in the message.
    [[nodiscard]] Status finish(std::string_view what) const {
        if (bad_) {
            return fail(ErrorKind::invalid, std::string(what) + " is malformed or too short");
        }
        if (!rest_.empty()) {
            return fail(ErrorKind::invalid,
                        std::string(what) + " has " + std::to_string(rest_.size()) + " bytes too many");
        }
        return {};
    }

private:
    std::span<const std::byte> rest_;
    bool bad_ = false;
};

}  // namespace snapvm
