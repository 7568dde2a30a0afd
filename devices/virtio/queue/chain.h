// SPDX-License-Identifier: Apache-2.0
// One request of a driver: the buffers that a chain of descriptors names.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::virtio {

/// A buffer in guest memory. It was checked to lie within one memory block.
struct Segment {
    Gpa at;
    std::uint32_t size = 0;
};

/// The descriptors of a chain, copied out of guest memory once and then checked. Buffers that the
/// device reads come before those that it writes.
struct Chain {
    std::uint16_t head = 0;  ///< identifies the chain when it is given back
    std::vector<Segment> readable;
    std::vector<Segment> writable;
    std::uint64_t readable_bytes = 0;
    std::uint64_t writable_bytes = 0;
};

/// Calls visit(Gpa, size), which returns a Status, for each piece of bytes [offset, offset + size)
/// of the segments. Ignores what is beyond their end.
template <class Visit>
Status for_each_piece(std::span<const Segment> segments, std::uint64_t offset, std::uint64_t size, Visit visit) {
    for (const Segment& segment : segments) {
        if (size == 0) {
            break;
        }
        if (offset >= segment.size) {
            offset -= segment.size;
            continue;
        }
        const std::uint64_t part = std::min<std::uint64_t>(segment.size - offset, size);
        if (Status done = visit(segment.at + offset, part); !done) {
            return done;
        }
        offset = 0;
        size -= part;
    }
    return {};
}

/// Copies the driver's bytes from `offset` on into `out`. Returns how many they are: less than
/// out.size() if the driver sent fewer.
inline Result<std::size_t> read_chain(const GuestMemory& memory, const Chain& chain, std::uint64_t offset,
                                      std::span<std::byte> out) {
    std::size_t done = 0;
    Status read = for_each_piece(chain.readable, offset, out.size(), [&](Gpa at, std::uint64_t size) {
        Status part = memory.read(at, out.subspan(done, size));
        done += size;
        return part;
    });
    return read ? Result<std::size_t>(done) : fail(std::move(read).error());
}

/// Copies `data` into the driver's buffers from `offset` on, as far as it fits. Returns the number
/// of bytes copied.
inline Result<std::size_t> write_chain(GuestMemory& memory, const Chain& chain, std::uint64_t offset,
                                       std::span<const std::byte> data) {
    std::size_t done = 0;
    Status written = for_each_piece(chain.writable, offset, data.size(), [&](Gpa at, std::uint64_t size) {
        Status part = memory.write(at, data.subspan(done, size));
        done += size;
        return part;
    });
    return written ? Result<std::size_t>(done) : fail(std::move(written).error());
}

}  // namespace snapvm::virtio
