// SPDX-License-Identifier: Apache-2.0
// Expands by zlib and zstd. The output is one cluster, so a small input cannot take much memory.
#include "devices/disk/qcow2/compressed.h"

#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <limits>
#include <memory>

namespace snapvm::disk::qcow2 {
namespace {

// QEMU's writer uses a window of 12 bits, others may use the largest. Negative: raw deflate.
constexpr int kRawDeflate = -MAX_WBITS;
// A zstd frame may ask for a buffer of this size (RFC 8878 recommends it as the least).
constexpr int kMaxWindowBits = 23;

std::unexpected<Error> damaged(const std::string& name) {
    return fail(ErrorKind::invalid, name + " has a compressed cluster that is damaged",
                "take a good copy of the image");
}

// An input or output of zlib is less than 4 GiB; a cluster's are at most some MiB.
bool fits(std::size_t size) { return size <= std::numeric_limits<uInt>::max(); }

Status expand_deflate(std::span<const std::byte> bytes, std::span<std::byte> cluster, const std::string& name) {
    if (!fits(bytes.size()) || !fits(cluster.size())) {
        return damaged(name);
    }
    z_stream stream{};
    if (::inflateInit2(&stream, kRawDeflate) != Z_OK) {
        return fail(Error::system("inflateInit2", name, ENOMEM));
    }
    const std::unique_ptr<z_stream, int (*)(z_stream*)> ends(&stream, ::inflateEnd);
    // zlib's interface is not const, but it does not write there.
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data()));
    stream.avail_in = static_cast<uInt>(bytes.size());
    stream.next_out = reinterpret_cast<Bytef*>(cluster.data());
    stream.avail_out = static_cast<uInt>(cluster.size());
    const int result = ::inflate(&stream, Z_FINISH);
    if (stream.avail_out != 0) {
        return damaged(name);
    }
    // The end of the data may need no more room, but one more byte would.
    std::byte beyond{};
    stream.next_out = reinterpret_cast<Bytef*>(&beyond);
    stream.avail_out = 1;
    const bool at_end = result == Z_STREAM_END || ::inflate(&stream, Z_FINISH) == Z_STREAM_END;
    return at_end && stream.avail_out == 1 ? Status() : damaged(name);
}

Status expand_zstd(std::span<const std::byte> bytes, std::span<std::byte> cluster, const std::string& name) {
    const std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream(::ZSTD_createDStream(),
                                                                               ::ZSTD_freeDStream);
    if (stream == nullptr) {
        return fail(Error::system("ZSTD_createDStream", name, ENOMEM));
    }
    ::ZSTD_DCtx_setParameter(stream.get(), ZSTD_d_windowLogMax, kMaxWindowBits);
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    ZSTD_outBuffer out{cluster.data(), cluster.size(), 0};
    // A cluster may be several frames. Its last one must end where the cluster is full.
    while (true) {
        const std::size_t taken = in.pos;
        const std::size_t given = out.pos;
        const std::size_t result = ::ZSTD_decompressStream(stream.get(), &out, &in);
        if (::ZSTD_isError(result) != 0U) {
            return damaged(name);
        }
        if (result == 0 && out.pos == out.size) {
            return {};
        }
        if (in.pos == taken && out.pos == given) {
            return damaged(name);
        }
    }
}

}  // namespace

Status expand(Compression compression, std::span<const std::byte> bytes, std::span<std::byte> cluster,
              const std::string& name) {
    return compression == Compression::zstd ? expand_zstd(bytes, cluster, name) : expand_deflate(bytes, cluster, name);
}

}  // namespace snapvm::disk::qcow2
