// SPDX-License-Identifier: Apache-2.0
// The host's ends of what goes on between it and a guest: TCP, vsock through unix sockets, ICMP. Each call has a limit (kPatience), and throws
// where it fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/fd.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {

class HostStream {
public:
    explicit HostStream(UniqueFd fd);
    static HostStream to_tcp(const std::string& address, std::uint16_t port);
    /// To a port of the guest whose vsock is at `socket`.
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

/// Where guests connect to.
class HostDoor {
public:
    static HostDoor at_tcp(std::uint16_t port);
    /// Port of the host (CID 2), to the guest whose vsock is at `socket`.
    static HostDoor at_vsock(const std::string& socket, std::uint32_t port);
    [[nodiscard]] HostStream accept() const;

private:
    explicit HostDoor(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

/// Whether the guest answers. Needs root.
[[nodiscard]] bool ping(const std::string& address);

/// Bytes of which none repeats in its place, and their sum.
[[nodiscard]] std::string random_bytes(std::size_t size);
[[nodiscard]] std::string crc32_text(std::string_view bytes);

}  // namespace snapvm::test
