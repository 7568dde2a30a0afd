// SPDX-License-Identifier: Apache-2.0
// Streams over vsock and TCP.
#include "guest-images/linux/tool/tool.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <csignal>

namespace tool {
namespace {

char buffer[65'536];

// Returns false if the other side is gone.
bool send_all(int stream, const char* data, size_t size) {
    while (size > 0) {
        const ssize_t sent = send(stream, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        data += sent;
        size -= static_cast<size_t>(sent);
    }
    return true;
}

sockaddr_vm vsock_address(uint32_t cid, const char* port) {
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = static_cast<uint32_t>(number(port, UINT32_MAX));
    return address;
}

sockaddr_in tcp_address(const char* port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(number(port, 65'535)));
    return address;
}

template <typename Address>
int listener(const Address& address, int domain) {
    const int socket_ = check(socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    const int on = 1;
    if (domain == AF_INET) check(setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "SO_REUSEADDR");
    check(bind(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
    check(listen(socket_, 16), "listen");
    std::printf("LISTENING\n");
    return socket_;
}

template <typename Address>
int connected(const Address& address, int domain) {
    const int stream = check(socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    check(connect(stream, reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
    return stream;
}

[[noreturn]] void echo(int stream) {
    ssize_t size = 0;
    while ((size = recv(stream, buffer, sizeof buffer, 0)) > 0)
        if (!send_all(stream, buffer, static_cast<size_t>(size))) break;
    std::_Exit(size == 0 ? 0 : 1);
}

}  // namespace

int run_vsock_echo(int, char** arguments) {
    const int door = listener(vsock_address(VMADDR_CID_ANY, arguments[0]), AF_VSOCK);
    std::signal(SIGCHLD, SIG_IGN);
    for (;;) {
        const int stream = accept4(door, nullptr, nullptr, SOCK_CLOEXEC);
        if (stream < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
        check(stream, "accept");
        if (check(fork(), "fork") == 0) echo(stream);
        close(stream);
    }
}

int run_vsock_send(int, char** arguments) {
    const int stream =
        connected(vsock_address(static_cast<uint32_t>(number(arguments[0], UINT32_MAX)), arguments[1]), AF_VSOCK);
    if (!send_all(stream, arguments[2], std::strlen(arguments[2]))) die("send");
    check(shutdown(stream, SHUT_WR), "shutdown");
    ssize_t size = 0;
    while ((size = recv(stream, buffer, sizeof buffer, 0)) > 0)
        std::fwrite(buffer, 1, static_cast<size_t>(size), stdout);
    if (size < 0) die("recv");
    std::printf("\n");
    return 0;
}

int run_tcp_sum(int, char** arguments) {
    const int stream =
        check(accept4(listener(tcp_address(arguments[0]), AF_INET), nullptr, nullptr, SOCK_CLOEXEC), "accept");
    uint64_t bytes = 0;
    uint32_t crc = 0;
    ssize_t size = 0;
    while ((size = recv(stream, buffer, sizeof buffer, 0)) > 0) {
        crc = static_cast<uint32_t>(crc32(crc, reinterpret_cast<const Bytef*>(buffer), static_cast<uInt>(size)));
        bytes += static_cast<uint64_t>(size);
    }
    if (size < 0) die("recv");
    std::printf("TCP SUM bytes=%llu crc32=%08x\n", static_cast<unsigned long long>(bytes), crc);
    return 0;
}

int run_tcp_send(int, char** arguments) {
    sockaddr_in address = tcp_address(arguments[1]);
    if (inet_pton(AF_INET, arguments[0], &address.sin_addr) != 1) {
        errno = EINVAL;
        die(arguments[0]);
    }
    const uint64_t bytes = number(arguments[2], UINT64_MAX);
    const int stream = connected(address, AF_INET);
    uint32_t crc = 0;
    uint64_t state = 1;  // of a xorshift, so that a lost or doubled piece changes the sum
    for (uint64_t left = bytes; left > 0;) {
        for (size_t at = 0; at < sizeof buffer; at += sizeof state) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            std::memcpy(buffer + at, &state, sizeof state);
        }
        const size_t size = left < sizeof buffer ? left : sizeof buffer;
        if (!send_all(stream, buffer, size)) die("send");
        crc = static_cast<uint32_t>(crc32(crc, reinterpret_cast<const Bytef*>(buffer), static_cast<uInt>(size)));
        left -= size;
    }
    // The other side closes when it has read everything.
    check(shutdown(stream, SHUT_WR), "shutdown");
    while (recv(stream, buffer, sizeof buffer, 0) > 0) continue;
    std::printf("TCP SENT bytes=%llu crc32=%08x\n", static_cast<unsigned long long>(bytes), crc);
    return 0;
}

}  // namespace tool
