// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/console_relay.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cerrno>

#include "vmm/base/thread.h"

namespace snapvm::api {
namespace {

constexpr auto kSlice = std::chrono::milliseconds(50);

bool send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            pollfd entry{fd, POLLOUT, 0};
            ::poll(&entry, 1, -1);
        } else if (sent < 0 && errno != EINTR) {
            return false;
        } else if (sent > 0) {
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
    }
    return true;
}

bool hung_up(int fd) {
    pollfd entry{fd, 0, 0};
    return ::poll(&entry, 1, 0) > 0;  // poll always reports POLLHUP and POLLERR
}

void feed(Service& service, std::span<const std::uint8_t> bytes, const std::atomic<bool>& over) {
    // Sends in slices, to notice `over`: a guest that is paused, or does not read, takes no input
    // for an unlimited time.
    while (!bytes.empty() && !over) {
        bytes = bytes.subspan(service.send_input(bytes, std::chrono::steady_clock::now() + kSlice));
    }
}

void pump_input(Service& service, int fd, std::string_view early, const std::atomic<bool>& over) {
    feed(service, {reinterpret_cast<const std::uint8_t*>(early.data()), early.size()}, over);
    std::array<std::uint8_t, 4096> chunk;
    while (!over) {
        pollfd entry{fd, POLLIN, 0};
        if (::poll(&entry, 1, static_cast<int>(kSlice.count())) <= 0) {
            continue;
        }
        const ssize_t got = ::recv(fd, chunk.data(), chunk.size(), MSG_DONTWAIT);
        if (got > 0) {
            feed(service, std::span(chunk).first(static_cast<std::size_t>(got)), over);
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            return;
        }
    }
}

}  // namespace

void relay_console(Service& service, int fd, std::string_view early, const std::function<bool()>& stopping) {
    const Result<const Console*> terminal = service.terminal();
    if (!terminal) {
        return;
    }
    std::atomic<bool> over = false;
    auto input = start_thread(ThreadRole::console, [&] { pump_input(service, fd, early, over); });
    if (!input) {
        return;  // the client sees the connection end
    }
    const Console& console = **terminal;
    std::uint64_t position = console.oldest();
    while (!hung_up(fd)) {
        // Tested before the read, so that output from before the end is still sent.
        const bool ended = console.closed() || service.state() == ServiceState::ended;
        const bool last = ended || stopping();
        const auto now = std::chrono::steady_clock::now();
        const Console::Chunk chunk = console.read(position, last ? now : now + kSlice);
        position = chunk.next;
        if (!send_all(fd, chunk.bytes) || (last && (chunk.bytes.empty() || !ended))) {
            break;
        }
    }
    over = true;
    input->join();
}

}  // namespace snapvm::api
