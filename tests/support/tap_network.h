// SPDX-License-Identifier: Apache-2.0
// Real taps, in a network of the test's own: what is made there is seen by nobody else, and gone with the test however it ends.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/base/fd.h"

namespace snapvm::test {

/// The calling thread, and what it starts, is in that network until this goes. Needs root.
class TapNetwork {
public:
    TapNetwork();
    ~TapNetwork();
    TapNetwork(const TapNetwork&) = delete;
    TapNetwork& operator=(const TapNetwork&) = delete;

    /// Why there is none; empty: it is there.
    [[nodiscard]] const std::string& reason() const { return reason_; }

    // Each ends the program where it fails: nothing in a test of one's own network may.
    /// A tap that stays when nobody is attached to it; quiet but for what is sent there.
    void add(const std::string& name, bool up = true) const;
    void set_up(const std::string& name, bool up) const;
    /// An address of the host's in a network of 256, such as 192.0.2.1.
    void set_address(const std::string& name, const std::string& address) const;
    void remove(const std::string& name) const;

private:
    std::string reason_;
    UniqueFd before_;  ///< the network that the thread was in
    UniqueFd socket_;  ///< for requests
};

/// The host's side of an interface. Frames of the local experiments' type (0x88B5) and of IPv4.
class PacketSocket {
public:
    /// With a virtio_net_hdr of 10 bytes before each frame, or without.
    explicit PacketSocket(const std::string& interface, bool with_header = false);
    /// False: the kernel did not take it.
    [[nodiscard]] bool send(std::span<const std::byte> frame) const;
    /// The next one that came in from the interface; nothing when there is none for a minute, or at once.
    [[nodiscard]] std::optional<std::vector<std::byte>> receive(bool wait = true) const;

private:
    UniqueFd fd_;
};

}  // namespace snapvm::test
