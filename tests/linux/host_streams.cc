// SPDX-License-Identifier: Apache-2.0
#include "tests/linux/host_streams.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "tests/support/need.h"

namespace snapvm::test {
namespace {

void require(bool done, const std::string& what) {
    if (!done) {
        throw std::runtime_error(what + ": " + std::strerror(errno));
    }
}

sockaddr_in tcp_address(const std::string& address, std::uint16_t port) {
    sockaddr_in result{};
    result.sin_family = AF_INET;
    result.sin_port = htons(port);
    require(::inet_pton(AF_INET, address.c_str(), &result.sin_addr) == 1, address);
    return result;
}

UniqueFd stream_socket(int family) {
    UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    require(fd.valid(), "socket");
    return fd;
}

// The limit holds for connect, accept, receive and send.
void limit(int fd) {
    const timeval patience{.tv_sec = std::chrono::seconds(kPatience).count(), .tv_usec = 0};
    require(::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
                ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0,
            "limit");
}

template <class Address>
const sockaddr* plain(const Address& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

HostStream::HostStream(UniqueFd fd) : fd_(std::move(fd)) { limit(fd_.get()); }

HostStream HostStream::to_tcp(const std::string& address, std::uint16_t port) {
    HostStream stream(stream_socket(AF_INET));
    const sockaddr_in to = tcp_address(address, port);
    require(::connect(stream.fd(), plain(to), sizeof to) == 0, "connect " + address);
    return stream;
}

HostStream HostStream::to_vsock(const std::string& socket, std::uint32_t port) {
    HostStream stream(stream_socket(AF_UNIX));
    const sockaddr_un to = need(unix_address(socket));
    require(::connect(stream.fd(), plain(to), sizeof to) == 0, "connect " + socket);
    stream.send("CONNECT " + std::to_string(port) + "\n");
    const std::string answer = stream.receive_line();
    if (!answer.starts_with("OK ")) {
        throw std::runtime_error("port " + std::to_string(port) + " of the guest is not there: " + answer);
    }
    return stream;
}

void HostStream::send(std::string_view bytes) const {
    while (!bytes.empty()) {
        const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        require(sent > 0, "send");
        bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
}

void HostStream::end_sending() const { require(::shutdown(fd_.get(), SHUT_WR) == 0, "shutdown"); }

std::string HostStream::receive(std::size_t size) const {
    std::string bytes(size, '\0');
    const ssize_t got = ::recv(fd_.get(), bytes.data(), size, MSG_WAITALL);
    require(got >= 0, "recv");
    bytes.resize(static_cast<std::size_t>(got));
    return bytes;
}

std::string HostStream::receive_line() const {
    std::string line;
    for (std::string byte = receive(1); !byte.empty() && byte != "\n"; byte = receive(1)) {
        line += byte;
    }
    return line;
}

std::string HostStream::receive_all() const {
    std::string all;
    for (std::string part = receive(65'536); !part.empty(); part = receive(65'536)) {
        all += part;
    }
    return all;
}

HostDoor HostDoor::at_tcp(std::uint16_t port) {
    HostDoor door(stream_socket(AF_INET));
    const int yes = 1;
    require(::setsockopt(door.fd_.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0, "SO_REUSEADDR");
    const sockaddr_in at = tcp_address("0.0.0.0", port);
    require(::bind(door.fd_.get(), plain(at), sizeof at) == 0 && ::listen(door.fd_.get(), 8) == 0, "listen");
    return door;
}

HostDoor HostDoor::at_vsock(const std::string& socket, std::uint32_t port) {
    HostDoor door(stream_socket(AF_UNIX));
    const sockaddr_un at = need(unix_address(socket + "_" + std::to_string(port)));
    require(::bind(door.fd_.get(), plain(at), sizeof at) == 0 && ::listen(door.fd_.get(), 8) == 0, at.sun_path);
    return door;
}

HostStream HostDoor::accept() const {
    limit(fd_.get());
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    require(fd.valid(), "accept");
    return HostStream(std::move(fd));
}

std::size_t HostDoor::wait_for_any(std::span<const HostDoor> doors) {
    std::vector<pollfd> waiting;
    for (const HostDoor& door : doors) {
        waiting.push_back({.fd = door.fd_.get(), .events = POLLIN, .revents = 0});
    }
    require(::poll(waiting.data(), waiting.size(), std::chrono::milliseconds(kPatience).count()) > 0, "no stream");
    const auto asked = std::ranges::find_if(waiting, [](const pollfd& door) { return door.revents != 0; });
    return static_cast<std::size_t>(asked - waiting.begin());
}

bool ping(const std::string& address) {
    const UniqueFd fd(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
    require(fd.valid(), "ICMP");
    limit(fd.get());
    icmphdr request{};
    request.type = ICMP_ECHO;
    request.un.echo.id = htons(0x5A5A);
    request.checksum = static_cast<std::uint16_t>(~(request.type + request.un.echo.id));
    const sockaddr_in to = tcp_address(address, 0);
    require(::sendto(fd.get(), &request, sizeof request, 0, plain(to), sizeof to) == sizeof request, "ping " + address);
    while (true) {
        std::array<std::byte, 1500> packet{};
        const ssize_t got = ::recv(fd.get(), packet.data(), packet.size(), 0);
        if (got < 0) {
            return false;
        }
        icmphdr answer{};
        const std::size_t header = (std::to_integer<std::size_t>(packet[0]) & 0xF) * 4;
        std::memcpy(&answer, &packet.at(header), sizeof answer);
        if (answer.type == ICMP_ECHOREPLY && answer.un.echo.id == request.un.echo.id) {
            return true;
        }
    }
}

std::string random_bytes(std::size_t size) {
    std::mt19937_64 generator(20240607);
    std::string bytes(size, '\0');
    for (char& byte : bytes) {
        byte = static_cast<char>(generator());
    }
    return bytes;
}

std::string crc32_text(std::string_view bytes) {
    std::array<char, 9> text{};
    std::snprintf(text.data(), text.size(), "%08lx",
                  ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
    return text.data();
}

}  // namespace snapvm::test
