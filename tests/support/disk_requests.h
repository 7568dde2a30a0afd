// SPDX-License-Identifier: Apache-2.0
// Requests on a disk, as a guest's device makes them.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "devices/disk/disk.h"

namespace snapvm::test {

inline std::vector<std::byte> noise(std::size_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> bytes(size);
    std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
    return bytes;
}

inline DiskRequest ranged(DiskRequest::Kind kind, std::uint64_t offset, std::uint64_t size, bool unmap = false) {
    DiskRequest request;
    request.kind = kind;
    request.offset = offset;
    request.size = size;
    request.unmap = unmap;
    return request;
}

inline DiskRequest transfer(DiskRequest::Kind kind, std::uint64_t offset, std::span<std::byte> data) {
    DiskRequest request = ranged(kind, offset, data.size());
    request.buffers = {{data.data(), data.size()}};
    return request;
}

/// Waits until `count` requests have ended. Returns the errno of the last one that failed.
inline int finish(Disk& disk, std::size_t count) {
    int failed = 0;
    disk.submit();
    while (count > 0) {
        pollfd event{disk.event(), POLLIN, 0};
        if (::poll(&event, 1, 10'000) != 1) {
            ADD_FAILURE() << count << " requests never end";
            return -1;
        }
        disk.reap([&](DiskRequest& /*request*/, int error) {
            failed = error != 0 ? error : failed;
            --count;
        });
    }
    return failed;
}

inline int run(Disk& disk, DiskRequest request) {
    disk.add(request);
    return finish(disk, 1);
}

}  // namespace snapvm::test
