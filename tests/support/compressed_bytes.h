// SPDX-License-Identifier: Apache-2.0
// Bytes as zlib and zstd compress them.
#pragma once

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <cstddef>
#include <span>
#include <vector>

namespace snapvm::test {

using FileBytes = std::vector<std::byte>;

/// Compresses by zlib. `window_bits` is as deflateInit2() takes it: it says the wrapper, too.
inline FileBytes deflated(std::span<const std::byte> plain, int window_bits) {
    z_stream stream{};
    EXPECT_EQ(::deflateInit2(&stream, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    FileBytes in(plain.begin(), plain.end());
    FileBytes out(::deflateBound(&stream, plain.size()));
    stream.next_in = reinterpret_cast<Bytef*>(in.data());
    stream.avail_in = static_cast<uInt>(in.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    EXPECT_EQ(::deflate(&stream, Z_FINISH), Z_STREAM_END);
    out.resize(stream.total_out);
    ::deflateEnd(&stream);
    return out;
}

inline FileBytes gzip(std::span<const std::byte> plain) { return deflated(plain, 16 + MAX_WBITS); }

inline FileBytes zstd(std::span<const std::byte> plain) {
    FileBytes out(::ZSTD_compressBound(plain.size()));
    out.resize(::ZSTD_compress(out.data(), out.size(), plain.data(), plain.size(), 3));
    return out;
}

}  // namespace snapvm::test
