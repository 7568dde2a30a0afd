// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/unpack.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::size_t kFirstRoom = 1ULL << 20;
constexpr std::uint64_t kDecoderMemory = 256ULL << 20;  // for xz; Linux packs with a dictionary of at most 128 MiB
constexpr std::size_t kLz4Block = 8ULL << 20;  // unpacked block of a legacy frame (lz4's doc/lz4_Frame_format.md)

struct Packing {
    std::string_view name;
    std::string_view magic;
};
// As in Linux' lib/decompress.c.
constexpr std::array kPackings = {
    Packing{"gzip", {"\x1f\x8b", 2}},         Packing{"bzip2", {"BZ", 2}},    Packing{"lzma", {"\x5d\x00", 2}},
    Packing{"xz", {"\xfd\x37zXZ\x00", 6}},    Packing{"lzo", {"\x89LZO", 4}}, Packing{"lz4", {"\x02\x21\x4c\x18", 4}},
    Packing{"zstd", {"\x28\xb5\x2f\xfd", 4}},
};

std::unexpected<Error> damaged(std::string_view packing) {
    return fail(ErrorKind::invalid, "its " + std::string(packing) + " data is damaged or truncated",
                "copy the file again");
}

std::unexpected<Error> too_large(std::uint64_t limit) {
    return fail(ErrorKind::invalid, "it unpacks to more than " + std::to_string(limit >> 20) + " MiB",
                "give a smaller one");
}

/// A byte vector that grows up to a limit.
class Output {
public:
    explicit Output(std::uint64_t limit) : limit_(limit) {}
    /// Returns space for more bytes. Returns none once the output exceeds the limit.
    std::span<std::byte> room() {
        if (used_ == bytes_.size()) {
            bytes_.resize(std::min<std::uint64_t>(limit_ + 1, std::max(bytes_.size() * 2, kFirstRoom)));
        }
        return std::span(bytes_).subspan(used_);
    }
    void add(std::size_t count) { used_ += count; }
    [[nodiscard]] std::uint64_t limit() const { return limit_; }
    [[nodiscard]] bool too_much() const { return used_ > limit_; }
    std::vector<std::byte> take() {
        bytes_.resize(used_);
        return std::move(bytes_);
    }

private:
    std::uint64_t limit_;
    std::vector<std::byte> bytes_;
    std::size_t used_ = 0;
};

Status unpack_gzip(std::span<const std::byte> packed, Output& output) {
    if (packed.size() > std::numeric_limits<uInt>::max()) {
        return damaged("gzip");
    }
    z_stream stream{};
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    if (::inflateInit2(&stream, kGzipOnly) != Z_OK) {
        return fail(Error::system("inflateInit2", "zlib", ENOMEM));
    }
    const std::unique_ptr<z_stream, int (*)(z_stream*)> ends(&stream, ::inflateEnd);
    std::vector<Bytef> in(packed.size());  // zlib's interface is not const
    std::memcpy(in.data(), packed.data(), packed.size());
    stream.next_in = in.data();
    stream.avail_in = static_cast<uInt>(in.size());
    while (true) {
        const auto room = output.room();
        if (room.empty()) {
            return too_large(output.limit());
        }
        const auto size = static_cast<uInt>(std::min<std::size_t>(room.size(), std::numeric_limits<uInt>::max()));
        stream.next_out = reinterpret_cast<Bytef*>(room.data());
        stream.avail_out = size;
        const int result = ::inflate(&stream, Z_NO_FLUSH);
        output.add(size - stream.avail_out);
        if (result == Z_STREAM_END) {
            return {};
        }
        if (result != Z_OK) {
            return damaged("gzip");
        }
    }
}

Status unpack_xz(std::span<const std::byte> packed, Output& output) {
    lzma_stream stream = LZMA_STREAM_INIT;
    if (::lzma_stream_decoder(&stream, kDecoderMemory, 0) != LZMA_OK) {
        return fail(Error::system("lzma_stream_decoder", "liblzma", ENOMEM));
    }
    const std::unique_ptr<lzma_stream, void (*)(lzma_stream*)> ends(&stream, ::lzma_end);
    stream.next_in = reinterpret_cast<const std::uint8_t*>(packed.data());
    stream.avail_in = packed.size();
    while (true) {
        const auto room = output.room();
        if (room.empty()) {
            return too_large(output.limit());
        }
        stream.next_out = reinterpret_cast<std::uint8_t*>(room.data());
        stream.avail_out = room.size();
        const lzma_ret result = ::lzma_code(&stream, LZMA_RUN);
        output.add(room.size() - stream.avail_out);
        if (result == LZMA_STREAM_END) {
            return {};
        }
        if (result != LZMA_OK) {
            return damaged("xz");
        }
    }
}

Status unpack_zstd(std::span<const std::byte> packed, Output& output) {
    const std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream(::ZSTD_createDStream(),
                                                                               ::ZSTD_freeDStream);
    if (stream == nullptr) {
        return fail(Error::system("ZSTD_createDStream", "libzstd", ENOMEM));
    }
    ZSTD_inBuffer in{packed.data(), packed.size(), 0};
    while (true) {
        const auto room = output.room();
        if (room.empty()) {
            return too_large(output.limit());
        }
        ZSTD_outBuffer out{room.data(), room.size(), 0};
        const std::size_t taken = in.pos;
        const std::size_t result = ::ZSTD_decompressStream(stream.get(), &out, &in);
        output.add(out.pos);
        if (result == 0) {
            return {};
        }
        if (::ZSTD_isError(result) != 0U || (in.pos == taken && out.pos == 0)) {
            return damaged("zstd");
        }
    }
}

// Each block has a size before it. They end with the file, or with four bytes that are no block.
Status unpack_lz4(std::span<const std::byte> packed, Output& output) {
    std::size_t at = sizeof(std::uint32_t);
    std::vector<std::byte> block(kLz4Block);
    while (packed.size() - at > sizeof(std::uint32_t)) {
        std::uint32_t size = 0;
        std::memcpy(&size, packed.data() + at, sizeof size);
        at += sizeof size;
        if (size > packed.size() - at || size > std::numeric_limits<int>::max()) {
            return damaged("lz4");
        }
        const int got = ::LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data() + at),
                                              reinterpret_cast<char*>(block.data()), static_cast<int>(size),
                                              static_cast<int>(block.size()));
        if (got < 0) {
            return damaged("lz4");
        }
        at += size;
        for (std::span<const std::byte> rest = std::span(block).first(static_cast<std::size_t>(got)); !rest.empty();) {
            const auto room = output.room();
            if (room.empty()) {
                return too_large(output.limit());
            }
            const std::size_t part = std::min(rest.size(), room.size());
            std::ranges::copy(rest.first(part), room.begin());
            output.add(part);
            rest = rest.subspan(part);
        }
    }
    return {};
}

}  // namespace

std::string_view packing_of(std::span<const std::byte> packed) {
    for (const Packing& packing : kPackings) {
        if (packed.size() >= packing.magic.size() &&
            std::memcmp(packed.data(), packing.magic.data(), packing.magic.size()) == 0) {
            return packing.name;
        }
    }
    return {};
}

Result<std::vector<std::byte>> unpack(std::span<const std::byte> packed, std::uint64_t limit) {
    struct Unpacker {
        std::string_view name;
        Status (*unpack)(std::span<const std::byte>, Output&);
    };
    constexpr std::array kUnpackers = {Unpacker{"gzip", unpack_gzip}, Unpacker{"xz", unpack_xz},
                                       Unpacker{"zstd", unpack_zstd}, Unpacker{"lz4", unpack_lz4}};
    const std::string_view packing = packing_of(packed);
    const auto* unpacker = std::ranges::find(kUnpackers, packing, &Unpacker::name);
    if (unpacker == kUnpackers.end()) {
        return fail(ErrorKind::invalid,
                    packing.empty() ? "it is packed in an unknown way" : "it is packed with " + std::string(packing),
                    "give one that is packed with gzip, xz, zstd or lz4");
    }
    Output output(limit);
    TRY(unpacker->unpack(packed, output));
    if (output.too_much()) {
        return too_large(limit);
    }
    return output.take();
}

}  // namespace snapvm
