// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/balloon.h"

#include <thread>

#include "devices/virtio/balloon/release.h"
#include "vmm/base/try.h"

namespace snapvm {

using virtio::Balloon;

Status MachineBalloon::exists() const {
    if (!balloon_) {
        return fail(ErrorKind::usage, "this machine has no balloon", "start it with --balloon size=0");
    }
    return {};
}

// Runs `what(balloon)` while the machine is not frozen. In a frozen one the balloon's registers
// would be saved with the change, but its interrupt would come after its LAPIC was saved.
template <class What>
Status MachineBalloon::pass(What what) {
    TRY(exists());
    if (!gate_.pass(InputGate::Deadline::max(), [&] { balloon_.locked(what); })) {
        return fail(ErrorKind::usage, "the machine has ended");
    }
    return {};
}

Result<BalloonStatus> MachineBalloon::status() const {
    TRY(exists());
    return balloon_.locked([](Balloon& balloon) {
        return BalloonStatus{balloon.target_bytes(), balloon.actual_bytes(), balloon.polling_seconds()};
    });
}

Status MachineBalloon::set_target(std::uint64_t bytes) {
    TRY(exists());
    if (bytes % kPageSize != 0 || bytes > memory_bytes_) {
        return fail(ErrorKind::usage, "a balloon cannot have " + std::to_string(bytes) + " bytes",
                    "give a multiple of 4K, at most the machine's memory");
    }
    return pass([&](Balloon& balloon) { balloon.set_target(bytes); });
}

Status MachineBalloon::set_polling(std::uint16_t seconds) {
    return pass([&](Balloon& balloon) { balloon.set_polling(seconds); });
}

Result<virtio::BalloonStatistics> MachineBalloon::statistics(std::chrono::steady_clock::time_point deadline) {
    constexpr auto kPoll = std::chrono::milliseconds(1);
    std::uint64_t before = 0;
    bool asked = false;
    TRY(pass([&](Balloon& balloon) {
        before = balloon.statistics().updates;
        asked = balloon.polling_seconds() == 0 && balloon.request_statistics();
    }));
    while (true) {
        const virtio::BalloonStatistics now = balloon_.locked([](Balloon& balloon) { return balloon.statistics(); });
        if (!asked || now.updates != before || std::chrono::steady_clock::now() >= deadline) {
            return now;
        }
        std::this_thread::sleep_for(kPoll);
    }
}

bool MachineBalloon::can_hint() const {
    return balloon_ && balloon_.locked([](Balloon& balloon) { return balloon.can_hint(); });
}

void MachineBalloon::add_free_pages(DirtySet& into) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kPoll = std::chrono::milliseconds(1);
    constexpr auto kForAnAnswer = std::chrono::milliseconds(100);
    constexpr auto kForAll = std::chrono::seconds(1);
    // The devices' thread calls it, with the transport's lock held.
    const auto note = [&into](std::size_t block, std::uint64_t first, std::uint64_t count) {
        for (std::uint64_t page = first; page < first + count; ++page) {
            into.add(block, page);
        }
    };
    bool started = false;
    if (!pass([&](Balloon& balloon) { started = balloon.start_hinting(note); }) || !started) {
        return;
    }
    const auto began = Clock::now();
    for (bool over = false; !over;) {
        std::this_thread::sleep_for(kPoll);
        over = balloon_.locked([&](Balloon& balloon) {
            return balloon.hinting_done() || Clock::now() >= began + (balloon.hinting() ? kForAll : kForAnAnswer);
        });
    }
    const auto finish = [](Balloon& balloon) { balloon.finish_hinting(); };
    if (!pass(finish)) {
        balloon_.locked(finish);  // the run has ended, but `note` must not outlive this call
    }
}

Result<std::uint64_t> MachineBalloon::release_free(std::uint64_t max_bytes,
                                                   const std::function<Status()>& check_cancelled) {
    if (!balloon_) {
        return 0;
    }
    const virtio::BalloonAccess access = [this](const std::function<void(Balloon&)>& what) {
        if (!pass(what)) {
            balloon_.locked(what);  // the run has ended, and no later pass would succeed
        }
    };
    return virtio::release_free(access, max_bytes, check_cancelled);
}

void MachineBalloon::give_back() {
    if (balloon_) {
        gate_.pass_or_defer(InputGate::Deferred::balloon,
                            [this] { balloon_.locked([](Balloon& balloon) { balloon.give_back(); }); });
    }
}

}  // namespace snapvm
