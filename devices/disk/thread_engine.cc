// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "devices/disk/engine.h"
#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

std::int64_t perform(DiskCall& call) {
    const auto parts = static_cast<int>(call.buffers.size());
    const auto at = static_cast<off_t>(call.offset);
    std::int64_t result = 0;
    switch (call.kind) {
        case DiskCall::Kind::read: result = ::preadv2(call.fd, call.buffers.data(), parts, at, call.flags); break;
        case DiskCall::Kind::write: result = ::pwritev2(call.fd, call.buffers.data(), parts, at, call.flags); break;
        case DiskCall::Kind::flush: result = ::fdatasync(call.fd); break;
        case DiskCall::Kind::allocate: result = ::fallocate(call.fd, call.flags, at, static_cast<off_t>(call.size)); break;
        case DiskCall::Kind::discard: {
            std::array<std::uint64_t, 2> range = {call.offset, call.size};
            result = ::ioctl(call.fd, BLKDISCARD, range.data());
            break;
        }
    }
    return result < 0 ? -std::int64_t{errno} : result;
}

class ThreadEngine final : public DiskEngine {
public:
    explicit ThreadEngine(int event) : event_(event) {}
    ~ThreadEngine() override {
        {
            const std::lock_guard lock(mutex_);
            over_ = true;
        }
        work_.notify_all();
        for (std::thread& thread : threads_) {
            thread.join();
        }
    }

    Status start(unsigned threads) {
        // The process' signals belong to its other threads.
        sigset_t all;
        sigset_t before;
        sigfillset(&all);
        ::pthread_sigmask(SIG_SETMASK, &all, &before);
        Status started;
        for (unsigned i = 0; i < threads && started; ++i) {
            auto thread = start_thread("disk", [this] { run(); });
            if (thread) {
                threads_.push_back(*std::move(thread));
            } else {
                started = fail(std::move(thread).error());
            }
        }
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }

    void add(DiskCall& call) override { added_.push_back(&call); }

    void submit() override {
        if (added_.empty()) {
            return;
        }
        {
            const std::lock_guard lock(mutex_);
            queue_.insert(queue_.end(), added_.begin(), added_.end());
        }
        added_.size() == 1 ? work_.notify_one() : work_.notify_all();
        added_.clear();
    }

    void reap(const Ended& ended) override {
        std::vector<Done> done;
        {
            const std::lock_guard lock(mutex_);
            done.swap(done_);
        }
        for (const Done& one : done) {
            ended(*one.call, one.result);
        }
    }

private:
    struct Done {
        DiskCall* call;
        std::int64_t result;
    };

    void run() {
        ::pthread_setname_np(::pthread_self(), "disk");
        std::unique_lock lock(mutex_);
        while (true) {
            work_.wait(lock, [this] { return over_ || !queue_.empty(); });
            if (over_) {
                return;  // what has not begun is nobody's any more
            }
            DiskCall& call = *queue_.front();
            queue_.pop_front();
            lock.unlock();
            const std::int64_t result = perform(call);
            lock.lock();
            done_.push_back({&call, result});
            (void)::eventfd_write(event_, 1);
        }
    }

    int event_;
    std::vector<DiskCall*> added_;
    std::mutex mutex_;  // guards the three below; taken alone
    std::deque<DiskCall*> queue_;
    std::vector<Done> done_;
    bool over_ = false;
    std::condition_variable work_;
    std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<DiskEngine>> make_thread_engine(int event, unsigned threads) {
    auto engine = std::make_unique<ThreadEngine>(event);
    TRY(engine->start(threads));
    return std::unique_ptr<DiskEngine>(std::move(engine));
}

}  // namespace snapvm
