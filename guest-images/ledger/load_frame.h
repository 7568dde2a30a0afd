// SPDX-License-Identifier: Apache-2.0
// The frame that a network's load sends repeatedly. Its destination address belongs to no
// interface, so receivers drop it at once. Frames up to kLargestUncutFrame have a type that is set
// aside for experiments. Larger ones are TCP over IPv4, for which the host computes checksums and
// segments. This header has no dependencies.
#pragma once

#include <cstdint>

namespace snapvm::ledger {

inline constexpr std::uint64_t kSmallestFrame = 60, kLargestFrame = 65535 + 14;
inline constexpr std::uint64_t kLargestUncutFrame = 1514;

// struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6), which precedes a frame. A tap with a header of 12
// bytes uses it too.
struct FrameHeader {
    std::uint8_t flags;
    std::uint8_t gso_type;
    std::uint16_t hdr_len;
    std::uint16_t gso_size;
    std::uint16_t csum_start;
    std::uint16_t csum_offset;
    std::uint16_t num_buffers;
};
static_assert(sizeof(FrameHeader) == 12);

// Fills `size` bytes at `frame`, kSmallestFrame to kLargestFrame, and returns the frame's header.
inline FrameHeader make_frame(std::uint8_t* frame, std::uint64_t size) {
    constexpr std::uint64_t kEthernet = 14, kIp = 20, kTcp = 20;
    const auto put16 = [frame](std::uint64_t at, std::uint64_t value) {
        frame[at] = static_cast<std::uint8_t>(value >> 8);
        frame[at + 1] = static_cast<std::uint8_t>(value);
    };
    for (std::uint64_t i = 0; i < size; ++i) frame[i] = static_cast<std::uint8_t>(i);
    const std::uint8_t addresses[] = {0x02, 0xff, 0, 0, 0, 0xfe, 0x02, 0, 0, 0, 0, 1};
    for (std::uint64_t i = 0; i < sizeof addresses; ++i) frame[i] = addresses[i];
    put16(12, 0x88b5);
    if (size <= kLargestUncutFrame) return {};
    put16(12, 0x0800);
    const std::uint64_t ip = kEthernet, tcp = ip + kIp;
    for (std::uint64_t i = ip; i < tcp + kTcp; ++i) frame[i] = 0;
    frame[ip] = 0x45;
    put16(ip + 2, size - kEthernet);
    frame[ip + 8] = 64;  // time to live
    frame[ip + 9] = 6;  // TCP
    put16(ip + 12, 0xc0a8), put16(ip + 14, 2), put16(ip + 16, 0xc0a8), put16(ip + 18, 3);
    std::uint64_t sum = 0;
    for (std::uint64_t i = ip; i < tcp; i += 2) sum += static_cast<std::uint64_t>(frame[i] << 8 | frame[i + 1]);
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    put16(ip + 10, ~sum);
    put16(tcp, 5000), put16(tcp + 2, 5000);
    frame[tcp + 12] = 5 << 4;  // length of the TCP header
    frame[tcp + 13] = 0x10;  // ACK
    put16(tcp + 14, 0xffff);
    // Flags 1: the checksum is needed, from csum_start on. Type 1: TCP over IPv4. Segments fit 1500
    // bytes.
    return {1,
            1,
            static_cast<std::uint16_t>(tcp + kTcp),
            static_cast<std::uint16_t>(1500 - kIp - kTcp),
            static_cast<std::uint16_t>(tcp),
            16,
            0};
}

}  // namespace snapvm::ledger
