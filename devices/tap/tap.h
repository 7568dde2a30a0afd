// SPDX-License-Identifier: Apache-2.0
// The host's end of a network interface: whole Ethernet frames, each behind a header that says which of its checksums and segments are
// still to be made. Source: Documentation/networking/tuntap.rst; the header is virtio's (struct virtio_net_hdr_v1, virtio 1.2, 5.1.6).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "vmm/base/error.h"

namespace snapvm {

/// What whoever reads frames can do with them by himself; the kernel does the rest first. Its numbers (TUN_F_*).
namespace tap_offload {
inline constexpr unsigned kChecksum = 0x01;  ///< without it there is none of the others
inline constexpr unsigned kTso4 = 0x02;  ///< TCP segments to make, over IPv4
inline constexpr unsigned kTso6 = 0x04;  ///< over IPv6
inline constexpr unsigned kTsoEcn = 0x08;  ///< of streams with congestion notification too; with one of the two before
inline constexpr unsigned kUso = 0x20 | 0x40;  ///< UDP segments to make, over both: the kernel has it for both or not at all
}  // namespace tap_offload

/// What came of a frame.
enum class TapAnswer : std::uint8_t {
    done,
    later,  ///< none to read, or no room for one more: the descriptor tells when
    refused,  ///< the kernel does not want this one: it is malformed, or there is no memory
    down,  ///< the interface is not up
    gone,  ///< the interface is no more, and will not be again
};

/// Never blocks. Used by one thread at a time.
class Tap {
public:
    static constexpr std::size_t kHeader = 12;
    static constexpr std::size_t kEthernetHeader = 14;
    /// Header, an Ethernet header with a VLAN's tag, and the longest IP packet.
    static constexpr std::size_t kMaxFrame = kHeader + kEthernetHeader + 4 + 65535;

    Tap() = default;
    Tap(const Tap&) = delete;
    Tap& operator=(const Tap&) = delete;
    virtual ~Tap() = default;

    /// Readable: a frame waits. Writable: the interface is up and has room. In error: it is gone, which stays so.
    [[nodiscard]] virtual int event() const = 0;
    /// done: up, with room. later or down: neither of that for sure. gone.
    [[nodiscard]] virtual TapAnswer state() const = 0;
    /// Whether this kernel knows tap_offload::kUso, and such frames from us.
    [[nodiscard]] virtual bool has_uso() const = 0;
    /// Of frames that come from now on; none at first. Those that wait already keep what they were made with.
    virtual TapAnswer set_offloads(unsigned offloads) = 0;
    /// The next frame with its header, and its size; of one that is longer than `frame` the rest is lost. Never `refused`.
    virtual TapAnswer read(std::span<std::byte> frame, std::size_t& size) = 0;
    /// A frame with its header, as a whole or not at all.
    virtual TapAnswer write(std::span<const iovec> frame) = 0;
};

/// Attaches to the tap interface that is called so, alone. It must be there: who has the right to would make one otherwise, which leads
/// nowhere. `id` is for messages.
Result<std::unique_ptr<Tap>> open_tap(const std::string& id, const std::string& interface);
using OpenTap = Result<std::unique_ptr<Tap>> (*)(const std::string& id, const std::string& interface);

}  // namespace snapvm
