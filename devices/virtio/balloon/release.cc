// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/balloon/release.h"

#include <algorithm>
#include <optional>
#include <thread>

#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPoll = std::chrono::milliseconds(1);
constexpr std::uint64_t kReserveShare = 32;
constexpr std::uint64_t kLeastReserve = 16ULL << 20;
constexpr std::uint64_t kMostReserveShare = 4;

class Release {
public:
    Release(const BalloonAccess& access, std::uint64_t max_bytes, const std::function<Status()>& check_cancelled,
            const ReleaseLimits& limits)
        : access_(access), max_bytes_(max_bytes), check_cancelled_(check_cancelled), limits_(limits) {}

    Result<std::uint64_t> run() {
        const std::uint64_t free = TRY(ask_what_is_free());
        const std::uint64_t bytes = std::min(without_reserve(free), max_bytes_);
        return inflate(align_down(bytes, kPageSize));
    }

private:
    template <class What>
    auto with(What what) {
        std::optional<decltype(what(std::declval<Balloon&>()))> result;
        access_([&](Balloon& balloon) { result = what(balloon); });
        return *result;
    }

    // Returns false if `done` is not true within the limit.
    Result<bool> wait(std::chrono::milliseconds limit, const std::function<bool(Balloon&)>& done) {
        const auto deadline = Clock::now() + limit;
        while (!with(done)) {
            TRY(check_cancelled_());
            if (Clock::now() >= deadline) {
                return false;
            }
            std::this_thread::sleep_for(kPoll);
        }
        return true;
    }

    Result<std::uint64_t> ask_what_is_free() {
        if (with([](Balloon& balloon) { return balloon.tells_statistics(); })) {
            if (const auto free = TRY(ask_for_statistics())) {
                return *free;
            }
        }
        return with([](Balloon& balloon) { return balloon.can_hint(); }) ? ask_for_hints() : 0;
    }

    // Returns the free memory by new statistics (5.5.6.3): 0 if the driver does not answer in time,
    // nothing if it does not report it. Earlier statistics may be outdated.
    Result<std::optional<std::uint64_t>> ask_for_statistics() {
        const std::uint64_t before = with([](Balloon& balloon) { return balloon.statistics().updates; });
        const bool told = TRY(wait(limits_.answer, [before](Balloon& balloon) {
            if (balloon.statistics().updates != before) {
                return true;
            }
            (void)balloon.request_statistics();  // fails until the driver has answered the request before
            return false;
        }));
        if (!told) {
            return 0;
        }
        const auto values = with([](Balloon& balloon) { return balloon.statistics().values; });
        const auto free = values[BalloonStatistics::free_memory];
        return free ? std::min(*free, values[BalloonStatistics::available_memory].value_or(*free)) : free;
    }

    Result<std::uint64_t> ask_for_hints() {
        std::uint64_t pages = 0;
        if (!with([&pages](Balloon& balloon) {
                return balloon.start_hinting(
                    [&pages](std::size_t, std::uint64_t, std::uint64_t count) { pages += count; });
            })) {
            return 0;
        }
        auto heard = wait(limits_.answer, [](Balloon& balloon) { return balloon.hinting() || balloon.hinting_done(); });
        if (heard && *heard) {
            heard = wait(limits_.progress, [](Balloon& balloon) { return balloon.hinting_done(); });
        }
        access_([](Balloon& balloon) { balloon.finish_hinting(); });  // ends the use of `pages`
        TRY(std::move(heard));
        return pages * kPageSize;
    }

    std::uint64_t without_reserve(std::uint64_t free) {
        const std::uint64_t ram = with([](Balloon& balloon) { return balloon.ram_bytes(); });
        const std::uint64_t reserve = std::max(ram / kReserveShare, std::min(ram / kMostReserveShare, kLeastReserve));
        const std::uint64_t bytes = free > reserve ? free - reserve : 0;
        return with([](Balloon& balloon) { return balloon.deflates_on_oom(); }) ? bytes : std::min(bytes, free / 2);
    }

    Result<std::uint64_t> inflate(std::uint64_t bytes) {
        struct Sizes {
            std::uint64_t before = 0;
            std::uint64_t goal = 0;
        };
        const Sizes sizes = with([bytes](Balloon& balloon) {
            // The guest may report any number.
            const std::uint64_t ram = balloon.ram_bytes();
            const std::uint64_t before = std::min(balloon.actual_bytes(), ram);
            const Sizes wanted{before, before + std::min(bytes, ram - before)};
            if (wanted.goal > wanted.before) {
                balloon.release_to(wanted.goal);
            }
            return wanted;
        });
        if (sizes.goal == sizes.before) {
            return 0;
        }
        if (Status done = wait_until_it_holds(sizes.goal); !done) {
            access_([](Balloon& balloon) { balloon.give_back(); });
            return fail(std::move(done).error());
        }
        return with([sizes](Balloon& balloon) {
            const std::uint64_t holds = std::clamp(balloon.actual_bytes(), sizes.before, sizes.goal);
            if (holds == sizes.before) {
                balloon.give_back();
            } else if (holds < sizes.goal) {
                balloon.release_to(holds);  // the guest has no more, and must not go on trying
            }
            return holds - sizes.before;
        });
    }

    Status wait_until_it_holds(std::uint64_t goal) {
        const auto deadline = Clock::now() + limits_.all;
        bool over = false;
        while (!over && Clock::now() < deadline) {
            const std::uint64_t holds = with([](Balloon& balloon) { return balloon.actual_bytes(); });
            const bool more = TRY(wait(limits_.progress, [&, holds](Balloon& balloon) {
                over = !balloon.active() || balloon.actual_bytes() >= goal;
                return over || balloon.actual_bytes() != holds;
            }));
            over = over || !more;
        }
        return {};
    }

    const BalloonAccess& access_;
    const std::uint64_t max_bytes_;
    const std::function<Status()>& check_cancelled_;
    const ReleaseLimits& limits_;
};

}  // namespace

Result<std::uint64_t> release_free(const BalloonAccess& access, std::uint64_t max_bytes,
                                   const std::function<Status()>& check_cancelled, const ReleaseLimits& limits) {
    return Release(access, max_bytes, check_cancelled, limits).run();
}

}  // namespace snapvm::virtio
