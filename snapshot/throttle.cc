// SPDX-License-Identifier: Apache-2.0
#include "snapshot/throttle.h"

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
    throttle->thread_ = TRY(start_thread("throttle", [self = throttle.get()] { self->work(); }));
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

void Throttle::work() {
    std::unique_lock lock(mutex_);
    while (!over_) {
        const auto running = kRunning[level_];
        lock.unlock();
        auto frozen = FreezeGuard::freeze(source_);
        lock.lock();
        if (!frozen) {
            return;  // the run has ended; whoever takes the snapshot will find out
        }
        changed_.wait_for(lock, kPeriod - running, [this] { return over_; });
        lock.unlock();
        frozen->thaw();
        lock.lock();
        changed_.wait_for(lock, running, [this] { return over_; });
    }
}

}  // namespace snapvm
