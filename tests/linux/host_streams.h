// SPDX-License-Identifier: Apache-2.0
// The host's ends of connections with a guest: TCP, vsock through unix sockets, ICMP. Each call
// waits for kPatience at most, and throws if it fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "vmm/base/fd.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {

class HostStream {
public:
    explicit HostStream(UniqueFd fd);
    static HostStream to_tcp(const std::string& address, std::uint16_t port);
    /// Connects to a port of the guest whose vsock is at `socket`.
    static HostStream to_vsock(const std::string& socket, std::uint32_t port);

    void send(std::string_view bytes) const;
    void end_sending() const;
    [[nodiscard]] std::string receive(std::size_t size) const;
    [[nodiscard]] std::string receive_line() const;
    [[nodiscard]] std::string receive_all() const;
    [[nodiscard]] int fd() const { return fd_.get(); }

private:
    UniqueFd fd_;
};

/// Listens for connections of guests.
class HostDoor {
public:
    static HostDoor at_tcp(std::uint16_t port);
    /// Listens on a port of the host (CID 2) for the guest whose vsock is at `socket`.
    static HostDoor at_vsock(const std::string& socket, std::uint32_t port);
    [[nodiscard]] HostStream accept() const;
    /// Waits until a stream comes to one of the doors and returns the door's index. Throws if none
    /// comes within kPatience.
    [[nodiscard]] static std::size_t wait_for_any(std::span<const HostDoor> doors);

private:
    explicit HostDoor(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

/// Returns whether the guest answers. Needs root.
[[nodiscard]] bool ping(const std::string& address);

/// Return pseudo-random bytes from a fixed seed, and the CRC-32 of bytes in hexadecimal.
[[nodiscard]] std::string random_bytes(std::size_t size);
[[nodiscard]] std::string crc32_text(std::string_view bytes);

}  // namespace snapvm::test
