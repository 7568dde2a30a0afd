// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/input_pump.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"
#include "vmm/host/inheritance.h"

namespace snapvm {

void InputPump::block_signals() {
    const sigset_t set = ending_signals();
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    // A write to a pipe whose reader is gone then fails, instead of killing the process.
    ::signal(SIGPIPE, SIG_IGN);
}

InputPump::InputPump(std::function<void()> signalled, Line* from_stdin)
    : signalled_(std::move(signalled)), from_stdin_(from_stdin), stop_(::eventfd(0, EFD_CLOEXEC)) {
    const sigset_t set = ending_signals();
    signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC));
}

Result<std::unique_ptr<InputPump>> InputPump::start(std::function<void()> signalled, Line* from_stdin) {
    std::unique_ptr<InputPump> pump(new InputPump(std::move(signalled), from_stdin));
    pump->thread_ = TRY(start_thread(ThreadRole::input, [self = pump.get()] { self->run(); }));
    return pump;
}

InputPump::~InputPump() {
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    if (thread_.joinable()) {
        thread_.join();
    }
}

void InputPump::run() {
    while (true) {
        // Reads stdin only if the guest has taken the bytes read before.
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
            signalled_();
            return;
        }
        if (fds[2].revents != 0 && !read_stdin()) {
            from_stdin_ = nullptr;
        }
        send_pending();
    }
}

// Reads once. Returns false at the end of the input.
bool InputPump::read_stdin() {
    std::array<std::uint8_t, 4096> bytes;
    const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (got <= 0) {
        return got < 0 && errno == EINTR;
    }
    pending_.assign(bytes.begin(), bytes.begin() + got);
    return true;
}

// Sends in slices, so that a guest that is paused, or does not read, does not delay signals.
void InputPump::send_pending() {
    constexpr auto kSlice = std::chrono::milliseconds(50);
    if (pending_.empty()) {
        return;
    }
    const auto deadline = std::chrono::steady_clock::now() + kSlice;
    const std::size_t taken = from_stdin_->send(pending_, deadline);
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(taken));
}

}  // namespace snapvm
