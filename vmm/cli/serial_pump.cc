// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/serial_pump.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <span>

namespace snapvm::cli {
namespace {

sigset_t ending_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    return set;
}

}  // namespace

OutputPump::OutputPump(Machine& machine, Line line, int fd)
    : console_(line == Line::serial ? machine.console() : machine.virtio_console()), fd_(fd) {
    console_.hold_for_reader([&machine, line] { line == Line::serial ? machine.output_ready() : machine.console_output_ready(); });
    thread_ = std::thread([this] { run(); });
}

OutputPump::~OutputPump() { thread_.join(); }

void OutputPump::run() {
    std::uint64_t position = console_.oldest();
    while (true) {
        const Console::Chunk chunk = console_.read(position, std::chrono::steady_clock::time_point::max());
        if (chunk.bytes.empty()) {
            return;  // closed, and all is out
        }
        if (!write_all(fd_, std::as_bytes(std::span(chunk.bytes)), "the guest's output")) {
            // Nobody reads any more (a closed pipe, a full disk): the guest runs on without waiting for it.
            console_.release_reader();
            return;
        }
        position = chunk.next;
        console_.consumed(position);
    }
}

void InputPump::block_signals() {
    const sigset_t set = ending_signals();
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    // Writing to a pipe whose reader has gone is an error to handle, not a reason to die.
    ::signal(SIGPIPE, SIG_IGN);
}

InputPump::InputPump(Machine& machine, std::optional<Line> from_stdin)
    : machine_(machine), from_stdin_(from_stdin), stop_(::eventfd(0, EFD_CLOEXEC)) {
    const sigset_t set = ending_signals();
    signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC));
    thread_ = std::thread([this] { run(); });
}

InputPump::~InputPump() {
    machine_.stop_input();
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
}

void InputPump::run() {
    while (true) {
        // stdin is read only when the guest has taken what came before.
        const bool reads = from_stdin_ && pending_.empty();
        std::array<pollfd, 3> fds = {
            {{stop_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}, {reads ? STDIN_FILENO : -1, POLLIN, 0}}};
        if (::poll(fds.data(), fds.size(), pending_.empty() ? -1 : 0) < 0) {
            continue;
        }
        if (fds[0].revents != 0) {
            return;
        }
        if (fds[1].revents != 0) {
            machine_.end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
            return;
        }
        if (fds[2].revents != 0 && !read_stdin()) {
            from_stdin_.reset();
        }
        send_pending();
    }
}

// One read's worth; false at the end of input.
bool InputPump::read_stdin() {
    std::array<std::uint8_t, 4096> bytes;
    const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (got <= 0) {
        return got < 0 && errno == EINTR;
    }
    pending_.assign(bytes.begin(), bytes.begin() + got);
    return true;
}

// In slices: a guest that is paused, or does not read, must not keep signals waiting.
void InputPump::send_pending() {
    constexpr auto kSlice = std::chrono::milliseconds(50);
    if (pending_.empty()) {
        return;
    }
    const auto deadline = std::chrono::steady_clock::now() + kSlice;
    const std::size_t taken =
        *from_stdin_ == Line::serial ? machine_.send_input(pending_, deadline) : machine_.send_console_input(pending_, deadline);
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(taken));
}

}  // namespace snapvm::cli
