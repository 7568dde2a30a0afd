// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/aml.h"

#include <algorithm>
#include <cassert>
#include <string>

#include "vmm/base/bytes.h"

namespace snapvm::aml {
namespace {

// Opcodes (20.3). An extended opcode follows the prefix.
enum Op : std::uint8_t {
    kZero = 0x00,
    kOne = 0x01,
    kName = 0x08,
    kByte = 0x0A,
    kWord = 0x0B,
    kDWord = 0x0C,
    kString = 0x0D,
    kQWord = 0x0E,
    kScope = 0x10,
    kBuffer = 0x11,
    kPackage = 0x12,
    kMethod = 0x14,
    kDualName = 0x2E,
    kMultiName = 0x2F,
    kExtended = 0x5B,
    kRoot = 0x5C,
    kArg0 = 0x68,
    kStore = 0x70,
    kNotify = 0x86,
    kEqual = 0x93,
    kIf = 0xA0,
};
enum ExtendedOp : std::uint8_t { kRegion = 0x80, kField = 0x81, kDevice = 0x82 };

constexpr std::size_t kSegment = 4;
constexpr std::uint8_t kSystemIo = 1;            // RegionSpace
constexpr std::uint8_t kByteAccessNoLock = 1;    // FieldFlags; what is not written is preserved
constexpr std::uint8_t kIoDescriptor = 0x47;     // small, type 8, seven bytes (6.4.2.5)
constexpr std::uint8_t kEndTag = 0x79;           // small, type 15, one byte (6.4.2.9)
constexpr std::uint8_t kMemory32Fixed = 0x86;    // large, type 6 (6.4.3.4)
constexpr std::uint8_t kExtendedInterrupt = 0x89;  // large, type 9 (6.4.3.6)

void put_segment(Encoder& out, std::string_view segment) {
    assert(!segment.empty() && segment.size() <= kSegment);
    assert(std::ranges::all_of(segment,
                               [](char c) { return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }));
    assert(segment.front() < '0' || segment.front() > '9');
    std::string padded(segment);
    padded.resize(kSegment, '_');
    out.raw(std::as_bytes(std::span(padded)));
}

// PkgLength (20.2.4) includes itself. The upper two bits of the first byte give the number of bytes
// that follow. Without any, the first byte has six bits of the value; else it has four, and each
// further byte has eight.
Bytes with_length(const Bytes& body) {
    constexpr std::size_t kOneByte = 0x3F;
    std::size_t following = 0;
    if (body.size() + 1 > kOneByte) {
        following = 1;
        while (body.size() + 1 + following >= std::size_t{1} << (4 + 8 * following)) {
            ++following;
        }
    }
    assert(following <= 3);
    const std::size_t length = body.size() + 1 + following;
    Encoder out;
    if (following == 0) {
        out.u8(static_cast<std::uint8_t>(length));
    } else {
        out.u8(static_cast<std::uint8_t>(following << 6 | (length & 0x0F)));
        for (std::size_t i = 0; i < following; ++i) {
            out.u8(static_cast<std::uint8_t>(length >> (4 + 8 * i)));
        }
    }
    out.raw(body);
    return out.take();
}

Bytes op(std::uint8_t code) { return {std::byte{code}}; }
Bytes extended(ExtendedOp code) { return {std::byte{kExtended}, std::byte{code}}; }

}  // namespace

Bytes join(Terms terms) {
    Bytes all;
    for (const Bytes& term : terms) {
        all.insert(all.end(), term.begin(), term.end());
    }
    return all;
}

Bytes integer(std::uint64_t value) {
    Encoder out;
    if (value <= 1) {
        out.u8(value == 0 ? kZero : kOne);
    } else if (value <= 0xFF) {
        out.u8(kByte);
        out.u8(static_cast<std::uint8_t>(value));
    } else if (value <= 0xFFFF) {
        out.u8(kWord);
        out.u16(static_cast<std::uint16_t>(value));
    } else if (value <= 0xFFFFFFFF) {
        out.u8(kDWord);
        out.u32(static_cast<std::uint32_t>(value));
    } else {
        out.u8(kQWord);
        out.u64(value);
    }
    return out.take();
}

Bytes string(std::string_view text) {
    Encoder out;
    out.u8(kString);
    out.raw(std::as_bytes(std::span(text)));
    out.u8(0);
    return out.take();
}

// Three letters of five bits each and four hexadecimal digits, most significant byte first, so the
// little-endian integer is byte-swapped.
Bytes eisa_id(std::string_view id) {
    assert(id.size() == 7);
    const auto letter = [&](std::size_t i) { return static_cast<std::uint32_t>(id[i] - 'A' + 1) & 0x1F; };
    std::uint32_t value = letter(0) << 26 | letter(1) << 21 | letter(2) << 16;
    value |= static_cast<std::uint32_t>(std::stoul(std::string(id.substr(3)), nullptr, 16));
    return integer(__builtin_bswap32(value));
}

Bytes package(Terms elements) {
    const auto count = static_cast<std::uint8_t>(elements.size());
    return join({op(kPackage), with_length(join({op(count), join(elements)}))});
}

Bytes buffer(std::span<const std::byte> bytes) {
    return join({op(kBuffer), with_length(join({integer(bytes.size()), Bytes(bytes.begin(), bytes.end())}))});
}

Bytes path(std::string_view name) {
    Encoder segments;
    std::size_t count = 0;
    Encoder out;
    if (name.starts_with('\\')) {
        out.u8(kRoot);
        name.remove_prefix(1);
    }
    while (!name.empty()) {
        const std::size_t end = std::min(name.find('.'), name.size());
        put_segment(segments, name.substr(0, end));
        name.remove_prefix(std::min(end + 1, name.size()));
        ++count;
    }
    if (count == 0) {
        out.u8(0);  // NullName: the root itself
    } else if (count == 2) {
        out.u8(kDualName);
    } else if (count > 2) {
        out.u8(kMultiName);
        out.u8(static_cast<std::uint8_t>(count));
    }
    out.raw(segments.bytes());
    return out.take();
}

Bytes name(std::string_view name, const Bytes& object) { return join({op(kName), path(name), object}); }

Bytes scope(std::string_view name, const Bytes& terms) {
    return join({op(kScope), with_length(join({path(name), terms}))});
}

Bytes device(std::string_view name, const Bytes& terms) {
    return join({extended(kDevice), with_length(join({path(name), terms}))});
}

Bytes method(std::string_view name, std::uint8_t arguments, Serialized serialized, Terms body) {
    assert(arguments <= 7);
    const auto flags = static_cast<std::uint8_t>(arguments | (serialized == Serialized::yes ? 0x08 : 0));
    return join({op(kMethod), with_length(join({path(name), op(flags), join(body)}))});
}

Bytes port_region(std::string_view name, std::uint16_t base, std::uint8_t size) {
    return join({extended(kRegion), path(name), op(kSystemIo), integer(base), integer(size)});
}

Bytes byte_fields(std::string_view region, std::initializer_list<std::string_view> names) {
    Encoder list;
    for (const std::string_view field : names) {
        put_segment(list, field);
        list.u8(8);  // bits, as a PkgLength
    }
    return join({extended(kField), with_length(join({path(region), op(kByteAccessNoLock), list.take()}))});
}

Bytes argument(std::uint8_t number) {
    assert(number <= 6);
    return op(static_cast<std::uint8_t>(kArg0 + number));
}

Bytes store(const Bytes& value, const Bytes& to) { return join({op(kStore), value, to}); }

Bytes equal(const Bytes& left, const Bytes& right) { return join({op(kEqual), left, right}); }

Bytes when(const Bytes& condition, Terms body) { return join({op(kIf), with_length(join({condition, join(body)}))}); }

Bytes notify(std::string_view device, std::uint8_t value) { return join({op(kNotify), path(device), integer(value)}); }

Bytes io(std::uint16_t base, std::uint8_t count) {
    Encoder out;
    out.u8(kIoDescriptor);
    out.u8(1);  // decodes 16 address bits
    out.u16(base);
    out.u16(base);
    out.u8(1);  // alignment
    out.u8(count);
    return out.take();
}

Bytes memory32(std::uint32_t base, std::uint32_t size) {
    Encoder out;
    out.u8(kMemory32Fixed);
    out.u16(9);
    out.u8(1);  // writable
    out.u32(base);
    out.u32(size);
    return out.take();
}

Bytes interrupt(std::uint32_t gsi, Trigger trigger) {
    Encoder out;
    out.u8(kExtendedInterrupt);
    out.u16(6);
    out.u8(static_cast<std::uint8_t>(1 | (trigger == Trigger::edge ? 2 : 0)));  // consumer, active high, exclusive
    out.u8(1);  // one interrupt
    out.u32(gsi);
    return out.take();
}

Bytes resources(Terms descriptors) {
    // A checksum of zero in the end tag means that there is none.
    return buffer(join({join(descriptors), op(kEndTag), op(0)}));
}

}  // namespace snapvm::aml
