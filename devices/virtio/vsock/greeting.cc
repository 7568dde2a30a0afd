// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/vsock/greeting.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>

namespace snapvm::virtio::vsock {
namespace {

constexpr std::size_t kLongestLine = 32;

}  // namespace

std::optional<std::uint32_t> parse_connect(std::string_view line) {
    constexpr std::string_view kWord = "CONNECT ";
    std::uint32_t port = 0;
    if (!line.starts_with(kWord)) {
        return std::nullopt;
    }
    const char* end = line.data() + line.size();
    const auto [rest, error] = std::from_chars(line.data() + kWord.size(), end, port);
    return error == std::errc() && rest == end ? std::optional(port) : std::nullopt;
}

Greeting::State Greeting::read() {
    std::array<char, kLongestLine> bytes;
    const ssize_t seen = ::recv(socket_.get(), bytes.data(), bytes.size() - line_.size(), MSG_DONTWAIT | MSG_PEEK);
    if (seen <= 0) {
        return seen < 0 && (errno == EAGAIN || errno == EINTR) ? State::incomplete : State::refused;
    }
    const std::string_view text(bytes.data(), static_cast<std::size_t>(seen));
    const std::size_t end = text.find('\n');
    const std::size_t ours = end == std::string_view::npos ? text.size() : end + 1;
    // These bytes were peeked, so they are there.
    if (::recv(socket_.get(), bytes.data(), ours, MSG_DONTWAIT) != static_cast<ssize_t>(ours)) {
        return State::refused;
    }
    line_.append(text.substr(0, std::min(ours, end)));
    if (end == std::string_view::npos) {
        return line_.size() < kLongestLine ? State::incomplete : State::refused;
    }
    const std::optional<std::uint32_t> port = parse_connect(line_);
    port_ = port.value_or(0);
    return port ? State::complete : State::refused;
}

}  // namespace snapvm::virtio::vsock
