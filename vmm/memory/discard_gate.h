// SPDX-License-Identifier: Apache-2.0
// Keeps pages from being given back to the host while a part of the VMM depends on them.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

namespace snapvm {

/// One for each memory block. A thread that gives pages back has a pass. While a hold exists,
/// `enter` returns no pass, and it does not wait for the hold to end: a waiting device would keep
/// the machine from being frozen, and so the hold from ending.
///
/// Two users hold: a write-protect window, since a page that was given back has nothing left to
/// protect (copy_before_write.h), and, for a moment, the code that changes the block's backing.
class DiscardGate {
    struct State {
        std::shared_mutex mutex;
        int holds = 0;
    };

public:
    using Pass = std::shared_lock<std::shared_mutex>;

    DiscardGate() : state_(std::make_unique<State>()) {}

    /// Returns a pass, or nothing while a hold exists. Any thread may call it.
    [[nodiscard]] std::optional<Pass> enter() const {
        Pass pass(state_->mutex);
        return state_->holds == 0 ? std::optional(std::move(pass)) : std::nullopt;
    }

    /// Holds the gate from its construction to its destruction. The constructor waits until no pass
    /// is out. Several holds may exist at a time.
    class Hold {
    public:
        explicit Hold(const DiscardGate& gate) : state_(gate.state_.get()) { change(1); }
        Hold(Hold&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
        Hold& operator=(Hold&&) = delete;
        ~Hold() {
            if (state_ != nullptr) {
                change(-1);
            }
        }

    private:
        // Waits until no pass is out.
        void change(int by) {
            const std::unique_lock lock(state_->mutex);
            state_->holds += by;
        }
        State* state_;
    };

private:
    std::unique_ptr<State> state_;
};

}  // namespace snapvm
