// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"
#include "vmm/io/engine.h"

namespace snapvm::io {
namespace {

std::int64_t perform(const Request& request) {
    const auto parts = static_cast<int>(request.buffers.size());
    const iovec* buffers = request.buffers.data();
    const auto at = static_cast<off_t>(request.offset);
    std::int64_t result = 0;
    switch (request.kind) {
        case Request::Kind::read: result = ::preadv2(request.fd, buffers, parts, at, request.flags); break;
        case Request::Kind::write: result = ::pwritev2(request.fd, buffers, parts, at, request.flags); break;
        case Request::Kind::flush: result = ::fdatasync(request.fd); break;
        case Request::Kind::allocate:
            result = ::fallocate(request.fd, request.flags, at, static_cast<off_t>(request.size));
            break;
        case Request::Kind::discard: {
            std::array<std::uint64_t, 2> range = {request.offset, request.size};
            result = ::ioctl(request.fd, BLKDISCARD, range.data());
            break;
        }
    }
    return result < 0 ? -std::int64_t{errno} : result;
}

class ThreadEngine final : public Engine {
public:
    explicit ThreadEngine(EngineOptions options) : Engine(std::move(options)) {}
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
        for (unsigned i = 0; i < threads; ++i) {
            threads_.push_back(TRY(start_thread(ThreadRole::io, [this] { run(); })));
        }
        return {};
    }

    [[nodiscard]] std::string_view name() const override { return "threads"; }

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

private:
    void queue(Request& request) override { added_.push_back(&request); }

    void collect() override {
        const std::lock_guard lock(mutex_);
        for (const Completion& one : done_) {
            end(*one.request, one.result);
        }
        done_.clear();
    }

    Status await() override {
        std::unique_lock lock(mutex_);
        ended_.wait(lock, [this] { return !done_.empty(); });
        return {};
    }

    void run() {
        std::unique_lock lock(mutex_);
        while (true) {
            work_.wait(lock, [this] { return over_ || !queue_.empty(); });
            if (over_) {
                return;  // requests that have not begun are dropped
            }
            Request& request = *queue_.front();
            queue_.pop_front();
            lock.unlock();
            const std::int64_t result = perform(request);
            lock.lock();
            done_.push_back({&request, result});
            ended_.notify_one();
            if (done_.size() == 1) {  // for the others the event is readable, or collect() is about to run
                wake();
            }
        }
    }

    std::vector<Request*> added_;
    std::mutex mutex_;  // guards the three below; taken under virtio::Mmio::mutex_, and no lock is taken with it
    std::deque<Request*> queue_;
    std::vector<Completion> done_;
    bool over_ = false;
    std::condition_variable work_;   ///< there is something in `queue_`, or the engine ends
    std::condition_variable ended_;  ///< there is something in `done_`
    std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<Engine>> make_thread_engine(EngineOptions options, unsigned threads) {
    auto engine = std::make_unique<ThreadEngine>(std::move(options));
    TRY(engine->start(threads));
    return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace snapvm::io
