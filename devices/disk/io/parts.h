// SPDX-License-Identifier: Apache-2.0
// Parts of buffer lists.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace snapvm::disk {

/// Calls visit(iovec) for the parts of the buffers that hold bytes [offset, offset + size).
template <class Visit>
void for_each_part(std::span<const iovec> buffers, std::uint64_t offset, std::uint64_t size, Visit visit) {
    for (const iovec& buffer : buffers) {
        if (size == 0) {
            return;
        }
        if (offset >= buffer.iov_len) {
            offset -= buffer.iov_len;
            continue;
        }
        const std::uint64_t part = std::min<std::uint64_t>(buffer.iov_len - offset, size);
        visit(iovec{static_cast<std::byte*>(buffer.iov_base) + offset, part});
        offset = 0;
        size -= part;
    }
}

}  // namespace snapvm::disk
