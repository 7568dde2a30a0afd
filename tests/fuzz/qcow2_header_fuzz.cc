// SPDX-License-Identifier: Apache-2.0
// Any bytes as a qcow2 image: its header with its extensions, entries of its tables, what `disk
// info` says, and compressed clusters. The first byte chooses: 0 for an image, whose last bytes are
// also entries of tables; 1 for zlib and 2 for zstd, with a byte that chooses the cluster's size.
// What is accepted must come back the same after it was written.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "devices/disk/image/info.h"
#include "devices/disk/qcow2/compressed.h"
#include "devices/disk/qcow2/entries.h"
#include "devices/disk/qcow2/header.h"
#include "vmm/base/fd.h"

namespace {

using namespace snapvm;
using namespace snapvm::disk;
using Bytes = std::span<const std::byte>;

constexpr std::size_t kWord = 8;
constexpr std::size_t kEntryBytes = 512;  // at the end of an image, tried as entries

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

void try_entries(const qcow2::Header& header, Bytes bytes) {
    bytes = bytes.last(std::min(bytes.size(), kEntryBytes));
    for (; bytes.size() >= 2 * kWord; bytes = bytes.subspan(kWord)) {
        const std::uint64_t word = qcow2::load_be64(bytes, 0);
        const std::uint64_t bitmap = qcow2::load_be64(bytes, kWord);
        if (const auto offset = qcow2::parse_l1(header, word)) {
            require(*offset % header.cluster_size() == 0);
            require(qcow2::parse_l1(header, qcow2::encode_l1(*offset)).value_or(~0ULL) == *offset);
        }
        if (const auto entry = qcow2::parse_l2(header, word, bitmap)) {
            require((entry->allocated & entry->zero) == 0);
            const qcow2::L2Words words = qcow2::encode_l2(header, *entry);
            const auto again = qcow2::parse_l2(header, words.word, words.bitmap);
            require(again.has_value() && *again == *entry);
        }
    }
}

void try_header(Bytes bytes) {
    const auto size = qcow2::header_bytes(bytes, "image");
    const auto header = qcow2::parse_header(bytes, "image");
    if (!header) {
        return;
    }
    require(size.has_value() && *size == header->cluster_size());
    // There may be no room for what ends the extensions.
    if (const auto encoded = qcow2::encode_header(*header)) {
        require(encoded->size() == header->cluster_size());
        const auto again = qcow2::parse_header(*encoded, "image");
        require(again.has_value() && *again == *header);
    }
    try_entries(*header, bytes);
}

void try_info(Bytes bytes) {
    const UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
    require(file.valid() && write_all_at(file.get(), bytes, 0, "image").has_value());
    const std::string path = "/proc/self/fd/" + std::to_string(file.get());
    for (const char* const format : {"", "raw", "qcow2"}) {
        if (const auto info = image_info(path, format)) {
            require(to_json(*info).find('\n') == std::string::npos);
            require(to_text(*info).find('\x1b') == std::string::npos);
        }
    }
}

void try_compressed(qcow2::Compression compression, Bytes bytes) {
    if (bytes.empty()) {
        return;
    }
    // 512 bytes to 64 KiB. A heap buffer of exactly that size lets a sanitizer see a write past it.
    std::vector<std::byte> cluster(std::size_t{512} << (std::to_integer<unsigned>(bytes[0]) % 8));
    static_cast<void>(qcow2::expand(compression, bytes.subspan(1), cluster, "image"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const Bytes bytes = std::as_bytes(std::span(data, size)).subspan(1);
    switch (data[0]) {
        case 0:
            try_header(bytes);
            try_info(bytes);
            break;
        case 1: try_compressed(qcow2::Compression::zlib, bytes); break;
        case 2: try_compressed(qcow2::Compression::zstd, bytes); break;
        default: break;
    }
    return 0;
}
