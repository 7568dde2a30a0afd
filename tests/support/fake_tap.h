// SPDX-License-Identifier: Apache-2.0
// A tap without an interface of the kernel behind it. Its descriptor becomes ready as a real tap's
// does.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "devices/tap/tap.h"
#include "vmm/base/fd.h"

namespace snapvm::test {

using Frame = std::vector<std::byte>;

class FakeTap final : public Tap {
public:
    /// Serves as Openers::tap. An interface named "old" behaves like one of a kernel without USO.
    static Result<std::unique_ptr<Tap>> open(const std::string& id, const std::string& interface) {
        (void)id;
        auto made = std::make_unique<FakeTap>(interface != "old");
        latest = made.get();
        return made;
    }
    static inline FakeTap* latest = nullptr;  ///< the tap that was opened last

    explicit FakeTap(bool uso) : uso_(uso) {
        std::array<int, 2> ends{};
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
            std::abort();
        }
        ours_ = UniqueFd(ends[0]);
        peer_ = UniqueFd(ends[1]);
    }

    [[nodiscard]] int event() const override { return ours_.get(); }
    [[nodiscard]] TapAnswer state() const override {
        pollfd now{.fd = ours_.get(), .events = POLLOUT, .revents = 0};
        (void)::poll(&now, 1, 0);
        return gone_ ? TapAnswer::gone : (now.revents & POLLOUT) != 0 ? TapAnswer::done : TapAnswer::down;
    }
    [[nodiscard]] bool has_uso() const override { return uso_; }
    TapAnswer set_offloads(unsigned wanted) override {
        ++offload_changes;
        offloads = wanted;
        return gone_ ? TapAnswer::gone : TapAnswer::done;
    }
    TapAnswer read(std::span<std::byte> frame, std::size_t& size) override {
        ++reads;
        size = 0;
        if (gone_ || waiting.empty()) {
            return gone_ ? TapAnswer::gone : TapAnswer::later;
        }
        size = std::min(frame.size(), waiting.front().size());
        std::ranges::copy(std::span(waiting.front()).first(size), frame.begin());
        waiting.pop_front();
        if (waiting.empty()) {
            std::byte token{};
            (void)::recv(ours_.get(), &token, 1, 0);
        }
        return TapAnswer::done;
    }
    TapAnswer write(std::span<const iovec> frame) override {
        ++writes;
        if (gone_ || state() != TapAnswer::done) {
            return gone_ ? TapAnswer::gone : answer_when_blocked_;
        }
        Frame whole;
        for (const iovec& piece : frame) {
            const auto* from = static_cast<const std::byte*>(piece.iov_base);
            whole.insert(whole.end(), from, from + piece.iov_len);
        }
        if (refuse) {
            return TapAnswer::refused;
        }
        if (keep_sent) {
            sent.push_back(std::move(whole));
        }
        return TapAnswer::done;
    }

    /// Adds a frame for the guest.
    void put(Frame frame) {
        if (waiting.empty()) {
            const std::byte token{};
            (void)::send(peer_.get(), &token, 1, MSG_NOSIGNAL);
        }
        waiting.push_back(std::move(frame));
    }
    /// Makes writes fail with `answer`: the interface is down, or it is up and has no room.
    void block(TapAnswer answer) {
        answer_when_blocked_ = answer;
        const std::array<std::byte, 4096> filling{};
        while (::send(ours_.get(), filling.data(), filling.size(), MSG_NOSIGNAL) > 0) {
        }
    }
    void unblock() {
        std::array<std::byte, 4096> filling;
        while (::recv(peer_.get(), filling.data(), filling.size(), 0) > 0) {
        }
    }
    void lose() {
        gone_ = true;
        peer_.reset();
    }

    std::deque<Frame> waiting;
    std::vector<Frame> sent;
    unsigned offloads = ~0U;  ///< as they were last set
    int offload_changes = 0;
    int reads = 0;
    int writes = 0;
    bool refuse = false;
    bool keep_sent = true;

private:
    UniqueFd ours_;
    UniqueFd peer_;
    bool uso_;
    bool gone_ = false;
    TapAnswer answer_when_blocked_ = TapAnswer::down;
};

}  // namespace snapvm::test
