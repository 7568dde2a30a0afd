// SPDX-License-Identifier: Apache-2.0
// Real taps in a network namespace of the test. Other processes do not see them, and they are gone
// after the test however it ends.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/base/fd.h"

namespace snapvm::test {

/// The calling thread and the processes that it starts are in that namespace until the destructor
/// runs. Needs root.
class TapNetwork {
public:
    TapNetwork();
    ~TapNetwork();
    TapNetwork(const TapNetwork&) = delete;
    TapNetwork& operator=(const TapNetwork&) = delete;

    /// Returns why there is no namespace, or an empty text if there is one.
    [[nodiscard]] const std::string& reason() const { return reason_; }

    // The functions below end the program if they fail: nothing in a namespace of one's own should
    // fail.
    /// Makes a tap that stays if no process is attached to it. It carries only what is sent there.
    void add(const std::string& name, bool up = true) const;
    void set_up(const std::string& name, bool up) const;
    /// Sets an address of the host in a network of 256, such as 192.0.2.1.
    void set_address(const std::string& name, const std::string& address) const;
    void remove(const std::string& name) const;

private:
    std::string reason_;
    UniqueFd before_;  ///< the namespace that the thread was in
    UniqueFd socket_;  ///< for requests
};

/// The host's side of an interface. It receives frames of all types.
class PacketSocket {
public:
    /// With `with_header`, each frame has a virtio_net_hdr of 10 bytes before it.
    explicit PacketSocket(const std::string& interface, bool with_header = false);
    /// Returns false if the kernel did not take the frame.
    [[nodiscard]] bool send(std::span<const std::byte> frame) const;
    /// Returns the next frame that came in from the interface. If there is none, waits a minute
    /// (not at all without `wait`) and returns nothing.
    [[nodiscard]] std::optional<std::vector<std::byte>> receive(bool wait = true) const;

private:
    UniqueFd fd_;
};

}  // namespace snapvm::test
