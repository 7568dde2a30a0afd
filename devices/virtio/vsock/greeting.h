// SPDX-License-Identifier: Apache-2.0
// A client of the host's that has not said yet which of the guest's ports it wants: "CONNECT <port>\n".
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "devices/virtio/device.h"
#include "vmm/base/fd.h"

namespace snapvm::virtio::vsock {

class Greeting {
public:
    explicit Greeting(UniqueFd socket) : socket_(std::move(socket)) {}
    Greeting(const Greeting&) = delete;
    Greeting& operator=(const Greeting&) = delete;
    ~Greeting() { watch.reset(); }  // before the socket

    enum class State : std::uint8_t { incomplete, complete, refused };
    /// Reads on, never beyond the line: what follows is the guest's.
    State read();
    /// Of a complete one.
    [[nodiscard]] std::uint32_t port() const { return port_; }
    [[nodiscard]] int fd() const { return socket_.get(); }
    [[nodiscard]] UniqueFd take_socket() {
        watch.reset();
        return std::move(socket_);
    }

    std::unique_ptr<Port::Watch> watch;  ///< the device's

private:
    UniqueFd socket_;
    std::string line_;
    std::uint32_t port_ = 0;
};

/// The port in "CONNECT <port>", without the line's end.
[[nodiscard]] std::optional<std::uint32_t> parse_connect(std::string_view line);

}  // namespace snapvm::virtio::vsock
