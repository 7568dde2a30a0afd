// SPDX-License-Identifier: Apache-2.0
// Keeps pages from being given back to the host while somebody needs them as they are.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

namespace snapvm {

/// One of each memory block. Who gives pages back holds a pass; while a hold is there, none is to be had, and nobody waits for one: a
/// device that did would keep the machine from being frozen, and so the hold from ending.
///
/// Holds: a write-protect window, in which a page that was given back would have nothing left to protect (copy_before_write.h), and for a
/// moment whoever changes what stands behind the block.
class DiscardGate {
    struct State {
        std::shared_mutex mutex;
        int holds = 0;
    };

public:
    using Pass = std::shared_lock<std::shared_mutex>;

    DiscardGate() : state_(std::make_unique<State>()) {}

    [[nodiscard]] std::optional<Pass> enter() const {
        Pass pass(state_->mutex);
        return state_->holds == 0 ? std::optional(std::move(pass)) : std::nullopt;
    }

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
        // Returns when no pass is out any more.
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
