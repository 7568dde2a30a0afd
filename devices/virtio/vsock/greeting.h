// SPDX-License-Identifier: Apache-2.0
// A host program that has connected and has not named a port of the guest yet, by a line
// "CONNECT <port>".
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "devices/virtio/device.h"
#include "vmm/base/fd.h"

namespace snapvm::virtio::vsock {

/// The first line of a host program's connection.
class Greeting {
public:
    explicit Greeting(UniqueFd socket) : socket_(std::move(socket)) {}
    Greeting(const Greeting&) = delete;
    Greeting& operator=(const Greeting&) = delete;
    ~Greeting() { watch.reset(); }  // before the socket

    enum class State : std::uint8_t { incomplete, complete, refused };
    /// Reads more of the line, and never beyond it: what follows belongs to the guest.
    State read();
    /// Returns the port of a complete line.
    [[nodiscard]] std::uint32_t port() const { return port_; }
    [[nodiscard]] int fd() const { return socket_.get(); }
    [[nodiscard]] UniqueFd take_socket() {
        watch.reset();
        return std::move(socket_);
    }

    std::unique_ptr<Transport::Watch> watch;  ///< set by the device

private:
    UniqueFd socket_;
    std::string line_;
    std::uint32_t port_ = 0;
};

/// Parses "CONNECT <port>", without the end of the line.
[[nodiscard]] std::optional<std::uint32_t> parse_connect(std::string_view line);

}  // namespace snapvm::virtio::vsock
