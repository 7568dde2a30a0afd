// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/throttle.h"

#include <array>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

using namespace std::chrono_literals;

constexpr auto kPeriod = 10'000us;
constexpr std::array kRunning = {3'000us, 1'000us, 300us, 100us};

}  // namespace

Result<std::unique_ptr<Throttle>> Throttle::start(SnapshotSource& source) {
    std::unique_ptr<Throttle> throttle(new Throttle(source));
    throttle->thread_ = TRY(start_thread(ThreadRole::throttle, [self = throttle.get()] { self->work(); }));
    return throttle;
}

Throttle::~Throttle() {
    if (!thread_.joinable()) {
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        over_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

bool Throttle::tighten() {
    const std::lock_guard lock(mutex_);
    if (level_ + 1 == kRunning.size()) {
        return false;
    }
    ++level_;
    return true;
}

Status Throttle::check_cancelled() {
    const std::lock_guard lock(mutex_);
    return over_ ? Status(fail(ErrorKind::cancelled, "the throttle has ended")) : Status{};
}

void Throttle::work() {
    std::unique_lock lock(mutex_);
    while (!over_) {
        const auto running = kRunning[level_];
        lock.unlock();
        // With check_cancelled() the destructor does not wait for a disk that never answers.
        auto quiet = QuiesceGuard::quiesce(source_, [this] { return check_cancelled(); });
        auto frozen = quiet ? FreezeGuard::freeze(*std::move(quiet)) : Result<FreezeGuard>(fail(quiet.error()));
        lock.lock();
        if (!frozen && frozen.error().kind() == ErrorKind::busy) {
            changed_.wait_for(lock, kPeriod, [this] { return over_; });
            continue;  // a disk is too slow; the machine has run freely meanwhile
        }
        if (!frozen) {
            return;  // destroyed, or the run has ended
        }
        changed_.wait_for(lock, kPeriod - running, [this] { return over_; });
        lock.unlock();
        frozen->thaw();
        lock.lock();
        changed_.wait_for(lock, running, [this] { return over_; });
    }
}

}  // namespace snapvm
