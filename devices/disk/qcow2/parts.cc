// SPDX-License-Identifier: Apache-2.0
// Slices of buffer lists, and zeros as a buffer.
#include "devices/disk/qcow2/parts.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "devices/disk/io/parts.h"

namespace snapvm::disk::qcow2 {

Parts slice(std::span<const iovec> parts, std::uint64_t offset, std::uint64_t size) {
    Parts result;
    for_each_part(parts, offset, size, [&](const iovec& part) { result.push_back(part); });
    return result;
}

void fill_zero(std::span<const iovec> parts) {
    for (const iovec& part : parts) {
        std::memset(part.iov_base, 0, part.iov_len);
    }
}

Parts zero_parts(std::uint64_t size) {
    // A write does not change its buffers, so one block serves all. It is not const only because
    // iovec has no const.
    alignas(4096) static std::array<std::byte, 64UL << 10> zeros{};
    Parts result;
    for (; size > 0; size -= result.back().iov_len) {
        result.push_back({zeros.data(), std::min<std::uint64_t>(size, zeros.size())});
    }
    return result;
}

void copy_to(std::span<const iovec> parts, std::span<const std::byte> bytes) {
    for (const iovec& part : parts) {
        std::memcpy(part.iov_base, bytes.data(), part.iov_len);
        bytes = bytes.subspan(part.iov_len);
    }
}

}  // namespace snapvm::disk::qcow2
