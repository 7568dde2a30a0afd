// SPDX-License-Identifier: Apache-2.0
// Builds bzImages around a test's kernel, packed as Linux' build packs them.
#pragma once

#include <asm/bootparam.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <lzma.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "tests/support/compressed_bytes.h"

namespace snapvm::test {

inline FileBytes xz(std::span<const std::byte> plain) {
    FileBytes out(::lzma_stream_buffer_bound(plain.size()));
    std::size_t size = 0;
    EXPECT_EQ(
        ::lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, nullptr, reinterpret_cast<const std::uint8_t*>(plain.data()),
                                  plain.size(), reinterpret_cast<std::uint8_t*>(out.data()), &size, out.size()),
        LZMA_OK);
    out.resize(size);
    return out;
}

/// Packs as `lz4 -l` does: a magic number, then blocks of 8 MiB.
inline FileBytes lz4(std::span<const std::byte> plain) {
    FileBytes out = {std::byte{0x02}, std::byte{0x21}, std::byte{0x4C}, std::byte{0x18}};
    while (!plain.empty()) {
        const auto part = plain.first(std::min<std::size_t>(plain.size(), 8 << 20));
        plain = plain.subspan(part.size());
        FileBytes block(static_cast<std::size_t>(::LZ4_compressBound(static_cast<int>(part.size()))));
        const auto size = static_cast<std::uint32_t>(
            ::LZ4_compress_default(reinterpret_cast<const char*>(part.data()), reinterpret_cast<char*>(block.data()),
                                   static_cast<int>(part.size()), static_cast<int>(block.size())));
        const auto bytes = std::as_bytes(std::span(&size, 1));
        out.insert(out.end(), bytes.begin(), bytes.end());
        out.insert(out.end(), block.begin(), block.begin() + size);
    }
    return out;
}

/// Appends the unpacked size to packed data.
inline FileBytes with_size(FileBytes packed, std::uint64_t unpacked) {
    const auto size = static_cast<std::uint32_t>(unpacked);
    const auto bytes = std::as_bytes(std::span(&size, 1));
    packed.insert(packed.end(), bytes.begin(), bytes.end());
    return packed;
}

inline constexpr std::size_t kSetupHeader = 0x1F1;
inline constexpr std::uint32_t kUnpacker = 700;  ///< bytes of the image's own unpacker before and after the payload

/// Returns an image of protocol 2.15. It has `setup_sectors` before the code of its own unpacker,
/// and the payload in the middle of that code.
inline FileBytes bzimage(std::span<const std::byte> payload, std::uint8_t setup_sectors = 27) {
    setup_header header{};
    header.setup_sects = setup_sectors;
    header.boot_flag = 0xAA55;
    header.header = 0x53726448;
    header.version = 0x20F;
    header.loadflags = LOADED_HIGH;
    header.payload_offset = kUnpacker;
    header.payload_length = static_cast<std::uint32_t>(payload.size());
    const std::size_t code = (setup_sectors == 0 ? 5U : setup_sectors + 1U) * 512;
    FileBytes image(code + 2 * kUnpacker + payload.size(), std::byte{0x90});
    std::memcpy(image.data() + kSetupHeader, &header, sizeof header);
    std::ranges::copy(payload, image.begin() + static_cast<std::ptrdiff_t>(code + kUnpacker));
    return image;
}

}  // namespace snapvm::test
