// SPDX-License-Identifier: Apache-2.0
// What the host asks of a machine's balloon.
#include "devices/virtio/balloon/balloon.h"

#include <thread>

#include "devices/virtio/balloon/release.h"
#include "devices/virtio/mmio/mmio.h"
#include "vmm/base/try.h"
#include "vmm/machine/machine.h"

namespace snapvm {

Status Machine::has_balloon() const {
    if (balloon_ == nullptr) {
        return fail(ErrorKind::usage, "this machine has no balloon", "start it with --balloon size=0");
    }
    return {};
}

// Its interrupt would reach the LAPIC after that was saved, and its registers before (the console's trap): not while the machine is frozen.
template <class What>
auto Machine::with_balloon(What what) {
    std::unique_lock input(input_);
    input_changed_.wait(input, [this] { return !input_held_ || input_over_; });
    return balloon_transport_->locked(what);
}

Result<BalloonStatus> Machine::balloon() const {
    TRY(has_balloon());
    return balloon_transport_->locked(
        [this] { return BalloonStatus{balloon_->target_bytes(), balloon_->actual_bytes(), balloon_->polling_seconds()}; });
}

Status Machine::set_balloon(std::uint64_t bytes) {
    TRY(has_balloon());
    if (bytes % kPageSize != 0 || bytes > config_.memory_bytes) {
        return fail(ErrorKind::usage, "a balloon of " + std::to_string(bytes) + " bytes cannot be had",
                    "give whole pages, at most the machine's memory");
    }
    with_balloon([&] { balloon_->set_target(bytes); });
    return {};
}

Status Machine::set_balloon_polling(std::uint16_t seconds) {
    TRY(has_balloon());
    with_balloon([&] { balloon_->set_polling(seconds); });
    return {};
}

Result<virtio::BalloonStatistics> Machine::balloon_statistics(std::chrono::steady_clock::time_point deadline) {
    constexpr auto kPoll = std::chrono::milliseconds(1);
    TRY(has_balloon());
    std::uint64_t before = 0;
    const bool asked = with_balloon([&] {
        before = balloon_->statistics().updates;
        return balloon_->polling_seconds() == 0 && balloon_->request_statistics();
    });
    while (true) {
        virtio::BalloonStatistics now = balloon_transport_->locked([this] { return balloon_->statistics(); });
        if (!asked || now.updates != before || std::chrono::steady_clock::now() >= deadline) {
            return now;
        }
        std::this_thread::sleep_for(kPoll);
    }
}

bool Machine::can_tell_free_pages() const {
    return balloon_ != nullptr && state() == State::running && balloon_transport_->locked([this] { return balloon_->can_hint(); });
}

void Machine::add_free_pages(DirtySet& into) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kPoll = std::chrono::milliseconds(1);
    constexpr auto kForAnAnswer = std::chrono::milliseconds(100);
    constexpr auto kForAll = std::chrono::seconds(1);
    // Called with the transport's lock held, on the devices' thread.
    const auto note = [&into](std::size_t block, std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t page = first; page < first + count; ++page) {
            into.add(block, page);
        }
    };
    if (balloon_ == nullptr || !with_balloon([&] { return balloon_->start_hinting(note); })) {
        return;
    }
    const auto began = Clock::now();
    for (bool over = false; !over;) {
        std::this_thread::sleep_for(kPoll);
        over = balloon_transport_->locked(
            [&] { return balloon_->hinting_done() || Clock::now() >= began + (balloon_->hinting() ? kForAll : kForAnAnswer); });
    }
    with_balloon([this] { balloon_->finish_hinting(); });
}

Result<std::uint64_t> Machine::release_free(std::uint64_t most, const std::function<Status()>& go_on) {
    if (balloon_ == nullptr || state() != State::running) {
        return 0;
    }
    const virtio::BalloonAccess access = [this](const std::function<void(virtio::Balloon&)>& what) {
        with_balloon([&] { what(*balloon_); });
    };
    return virtio::release_free(access, most, go_on);
}

void Machine::give_back() {
    if (balloon_ == nullptr) {
        return;
    }
    const std::lock_guard input(input_);
    if (input_held_) {
        give_back_waits_ = true;
    } else {
        balloon_transport_->locked([this] { balloon_->give_back(); });
    }
}

}  // namespace snapvm
