// SPDX-License-Identifier: Apache-2.0
// Numbers of virtio 1.2, 5.1, that net.cc, traffic.cc and control.cc share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace snapvm::virtio {

// Queues, 5.1.2.
enum NetQueue : std::size_t { kReceive, kTransmit, kControl, kNetQueues };

// Features, 5.1.3. "Guest": for frames to the guest; "host": for frames from it.
inline constexpr std::uint64_t kNetChecksum = 1ULL << 0;
inline constexpr std::uint64_t kNetGuestChecksum = 1ULL << 1;
inline constexpr std::uint64_t kNetControlOffloads = 1ULL << 2;
inline constexpr std::uint64_t kNetMac = 1ULL << 5;
inline constexpr std::uint64_t kNetGuestTso4 = 1ULL << 7;
inline constexpr std::uint64_t kNetGuestTso6 = 1ULL << 8;
inline constexpr std::uint64_t kNetGuestEcn = 1ULL << 9;
inline constexpr std::uint64_t kNetHostTso4 = 1ULL << 11;
inline constexpr std::uint64_t kNetHostTso6 = 1ULL << 12;
inline constexpr std::uint64_t kNetHostEcn = 1ULL << 13;
inline constexpr std::uint64_t kNetMergeBuffers = 1ULL << 15;
inline constexpr std::uint64_t kNetStatus = 1ULL << 16;
inline constexpr std::uint64_t kNetControlQueue = 1ULL << 17;
inline constexpr std::uint64_t kNetAnnounce = 1ULL << 21;
inline constexpr std::uint64_t kNetGuestUso4 = 1ULL << 54;
inline constexpr std::uint64_t kNetGuestUso6 = 1ULL << 55;
inline constexpr std::uint64_t kNetHostUso = 1ULL << 56;

/// Offloads that a driver may switch off and on by the control queue (5.1.6.5.6.1), with the
/// numbers of their features.
inline constexpr std::uint64_t kNetGuestOffloads =
    kNetGuestChecksum | kNetGuestTso4 | kNetGuestTso6 | kNetGuestEcn | kNetGuestUso4 | kNetGuestUso6;

// Fields of struct virtio_net_hdr, 5.1.6: its first two bytes and its last field.
inline constexpr std::uint8_t kNetNeedsChecksum = 1;  ///< in the first byte, flags
inline constexpr std::uint8_t kNetGsoNone = 0;  ///< the second byte, gso_type
inline constexpr std::uint8_t kNetGsoTcp4 = 1;
inline constexpr std::uint8_t kNetGsoTcp6 = 4;
inline constexpr std::uint8_t kNetGsoUdp = 5;
inline constexpr std::uint8_t kNetGsoEcn = 0x80;  ///< together with one of the TCP types
inline constexpr std::size_t kNetNumBuffers = 10;  ///< offset of the last field, num_buffers, le16

}  // namespace snapvm::virtio
