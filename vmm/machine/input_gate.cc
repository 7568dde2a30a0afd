// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/input_gate.h"

#include <algorithm>

namespace snapvm {

void InputGate::close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
}

void InputGate::open() {
    {
        const std::lock_guard lock(mutex_);
        closed_ = false;
        for (const auto& [kind, action] : std::exchange(deferred_, {})) {
            action();
        }
    }
    changed_.notify_all();
}

void InputGate::end() {
    {
        const std::lock_guard lock(mutex_);
        ended_ = true;
    }
    changed_.notify_all();
}

bool InputGate::pass(Deadline deadline, const Action& action) {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [this] { return !closed_ || ended_; });
    if (closed_) {
        return false;
    }
    action();
    return true;
}

void InputGate::pass_or_defer(Deferred kind, Action action) {
    const std::lock_guard lock(mutex_);
    if (!closed_) {
        action();
        return;
    }
    std::erase_if(deferred_, [&](const auto& waiting) { return waiting.first == kind; });
    deferred_.emplace_back(kind, std::move(action));
}

std::size_t InputGate::feed(std::span<const std::uint8_t> bytes, Deadline deadline,
                            const std::function<std::size_t(std::span<const std::uint8_t>)>& receive) {
    // Polls, since a device does not report that it has room again. Users type slowly, so 1 ms is
    // enough.
    constexpr auto kPoll = std::chrono::milliseconds(1);
    const std::size_t wanted = bytes.size();
    std::unique_lock lock(mutex_);
    while (!bytes.empty()) {
        const bool open = changed_.wait_until(lock, deadline, [this] { return !closed_ || ended_; });
        if (!open || ended_) {
            break;
        }
        const std::size_t taken = receive(bytes);
        bytes = bytes.subspan(taken);
        if (taken == 0) {
            if (std::chrono::steady_clock::now() >= deadline) {
                break;
            }
            changed_.wait_for(lock, kPoll);
        }
    }
    return wanted - bytes.size();
}

}  // namespace snapvm
