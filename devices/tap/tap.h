// SPDX-License-Identifier: Apache-2.0
// The host's end of a network interface: whole Ethernet frames, each with a header that tells which
// checksums and segments are still to be made. Source: Documentation/networking/tuntap.rst. The
// header is that of virtio (struct virtio_net_hdr_v1; virtio 1.2, 5.1.6).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "vmm/base/error.h"

namespace snapvm {

/// Work on received frames that the reader can do by itself; the kernel does all other work before
/// it passes a frame on. The numbers are the kernel's (TUN_F_*).
namespace tap_offload {
inline constexpr unsigned kChecksum = 0x01;  ///< checksums; required by all others
inline constexpr unsigned kTso4 = 0x02;  ///< TCP segmentation over IPv4
inline constexpr unsigned kTso6 = 0x04;  ///< TCP segmentation over IPv6
inline constexpr unsigned kTsoEcn = 0x08;  ///< congestion notification in such streams; requires one of the two before
/// UDP segmentation over IPv4 and IPv6, which the kernel supports together or not at all
inline constexpr unsigned kUso = 0x20 | 0x40;
}  // namespace tap_offload

/// The result of an operation on a frame.
enum class TapAnswer : std::uint8_t {
    done,
    later,  ///< no frame to read, or no room for another; the descriptor tells when there is
    refused,  ///< the kernel rejects this frame: it is malformed, or there is no memory
    down,  ///< the interface is not up
    gone,  ///< the interface was removed, and will not come back
};

/// A tap interface. Never blocks. One thread at a time.
class Tap {
public:
    static constexpr std::size_t kHeader = 12;
    static constexpr std::size_t kEthernetHeader = 14;
    /// Header, Ethernet header with a VLAN tag, and the longest IP packet.
    static constexpr std::size_t kMaxFrame = kHeader + kEthernetHeader + 4 + 65535;

    Tap() = default;
    Tap(const Tap&) = delete;
    Tap& operator=(const Tap&) = delete;
    virtual ~Tap() = default;

    /// Returns the descriptor. Readable: a frame waits. Writable: the interface is up and has room.
    /// In error: the interface was removed, and stays so.
    [[nodiscard]] virtual int event() const = 0;
    /// Returns done if the interface is up and has room, later or down if one of them is not
    /// certain, or gone.
    [[nodiscard]] virtual TapAnswer state() const = 0;
    /// Whether this kernel supports tap_offload::kUso, in frames that it sends and that it
    /// receives.
    [[nodiscard]] virtual bool has_uso() const = 0;
    /// Sets the offloads of frames that arrive from now on; none at first. Frames that wait already
    /// keep those of their arrival.
    virtual TapAnswer set_offloads(unsigned offloads) = 0;
    /// Reads the next frame with its header, and its size. Drops the end of a frame that is longer
    /// than `frame`. Never returns refused.
    virtual TapAnswer read(std::span<std::byte> frame, std::size_t& size) = 0;
    /// Writes a frame with its header, as a whole or not at all.
    virtual TapAnswer write(std::span<const iovec> frame) = 0;
};

/// Attaches to an existing tap interface, for exclusive use. Fails with not_found if there is none:
/// the kernel would create one for a privileged user, and it would be connected to nothing. `id`
/// names it in messages.
Result<std::unique_ptr<Tap>> open_tap(const std::string& id, const std::string& interface);
using OpenTap = Result<std::unique_ptr<Tap>> (*)(const std::string& id, const std::string& interface);

}  // namespace snapvm
