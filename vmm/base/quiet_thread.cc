// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/quiet_thread.h"

#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {

Result<std::unique_ptr<QuietThread>> QuietThread::start() {
    std::unique_ptr<QuietThread> self(new QuietThread);
    self->thread_ = TRY(start_thread(ThreadRole::quiet, [quiet = self.get()] { quiet->work(); }));
    return self;
}

QuietThread::~QuietThread() {
    {
        const std::lock_guard lock(mutex_);
        over_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

Status QuietThread::run(std::function<Status()> what) {
    std::unique_lock lock(mutex_);
    what_ = std::move(what);
    changed_.notify_all();
    changed_.wait(lock, [this] { return !what_; });
    return result_;
}

void QuietThread::work() {
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return over_ || what_; });
        if (!what_) {
            return;
        }
        result_ = what_();  // under the lock, since the only thread that may call run waits for it
        what_ = nullptr;
        changed_.notify_all();
    }
}

}  // namespace snapvm
