// SPDX-License-Identifier: Apache-2.0
// The header of every vsock packet. Source: virtio 1.2, 5.10.6 "Device Operation".
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>

namespace snapvm::virtio::vsock {

inline constexpr std::uint64_t kHostCid = 2;
inline constexpr std::uint16_t kStream = 1;  // VIRTIO_VSOCK_TYPE_STREAM

/// Operations, VIRTIO_VSOCK_OP_…
enum class Op : std::uint16_t {
    request = 1,
    response = 2,
    reset = 3,
    shutdown = 4,
    data = 5,
    credit_update = 6,
    credit_request = 7,
};

/// Flags of `shutdown`: what the sender does not do any more.
inline constexpr std::uint32_t kNoReceive = 1;
inline constexpr std::uint32_t kNoSend = 2;
inline constexpr std::uint32_t kNeither = kNoReceive | kNoSend;

/// A copied struct virtio_vsock_hdr.
struct Header {
    static constexpr std::size_t kSize = 44;

    std::uint64_t src_cid = 0;
    std::uint64_t dst_cid = 0;
    std::uint32_t src_port = 0;
    std::uint32_t dst_port = 0;
    std::uint32_t len = 0;  ///< bytes of payload that follow
    std::uint16_t type = kStream;
    Op op{};  ///< may have any value if a guest wrote it
    std::uint32_t flags = 0;
    std::uint32_t buf_alloc = 0;  ///< size of the sender's receive buffer
    std::uint32_t fwd_cnt = 0;    ///< bytes taken out of that buffer since the connection began; wraps around

    [[nodiscard]] std::array<std::byte, kSize> encode() const;
    static Header decode(std::span<const std::byte, kSize> bytes);
};

/// Identifies a connection of one guest.
struct Ports {
    std::uint32_t guest = 0;
    std::uint32_t host = 0;
    friend auto operator<=>(const Ports&, const Ports&) = default;
};

}  // namespace snapvm::virtio::vsock
