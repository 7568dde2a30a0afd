// SPDX-License-Identifier: Apache-2.0
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "snapshot/page_sink.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::size_t kThreads = 4;
constexpr std::size_t kMaxQueued = 16;

class ThreadSink final : public PageSink {
public:
    explicit ThreadSink(SinkTarget target) : target_(std::move(target)) {}
    ~ThreadSink() override {
        {
            const std::scoped_lock lock(mutex_);
            stopping_ = true;
        }
        work_.notify_all();
        threads_.clear();  // joins; what is queued is written first
    }

    Status start() {
        try {
            for (std::size_t i = 0; i < kThreads; ++i) {
                threads_.emplace_back([this] { run(); });
            }
        } catch (const std::system_error& error) {
            return fail(Error::system("pthread_create", target_.name, error.code().value()));
        }
        return {};
    }
    [[nodiscard]] std::string_view name() const override { return "threads"; }

    Status write(std::span<const std::byte> data, std::uint64_t offset) override {
        std::size_t first = data.size();
        if (target_.hook) {
            const IoFault fault = target_.hook({IoStep::pages, offset, data.size()});
            if (fault.error != 0) {
                const std::scoped_lock lock(mutex_);
                keep_error(Error::system("write", target_.name, fault.error));
                return fail(*error_);
            }
            first = fault.short_to == 0 ? first : std::min<std::size_t>(first, fault.short_to);
        }
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return error_ || queue_.size() + busy_ < kMaxQueued; });
        if (error_) {
            return fail(*error_);
        }
        queue_.push_back({data, offset, first});
        lock.unlock();
        work_.notify_one();
        return {};
    }

    Status drain() override {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return queue_.empty() && busy_ == 0; });
        return error_ ? fail(*error_) : Status{};
    }

private:
    struct Op {
        std::span<const std::byte> data;
        std::uint64_t offset = 0;
        std::size_t first = 0;  ///< bytes of the first call: fewer than all only where a test asks for a short write
    };

    void keep_error(Error error) {  // under mutex_
        if (!error_) {
            error_ = std::move(error);
        }
    }

    Status perform(Op op) const {
        std::size_t size = op.first;
        while (!op.data.empty()) {
            const iovec part{const_cast<std::byte*>(op.data.data()), size};
            const ssize_t written = ::pwritev2(target_.fd, &part, 1, static_cast<off_t>(op.offset), 0);
            if (written < 0 && errno == EINTR) {
                continue;
            }
            if (written <= 0) {
                return fail(Error::system("write", target_.name, written == 0 ? ENOSPC : errno));
            }
            op.data = op.data.subspan(static_cast<std::size_t>(written));
            op.offset += static_cast<std::uint64_t>(written);
            size = op.data.size();
        }
        return {};
    }

    void run() {
        std::unique_lock lock(mutex_);
        while (true) {
            work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
            if (queue_.empty()) {
                return;
            }
            const Op op = queue_.front();
            queue_.pop_front();
            ++busy_;
            const bool skip = error_.has_value();
            lock.unlock();
            Status status = skip ? Status{} : perform(op);
            lock.lock();
            --busy_;
            if (!status) {
                keep_error(std::move(status).error());
            }
            done_.notify_all();
        }
    }

    SinkTarget target_;
    std::mutex mutex_;  // guards all below but threads_; taken alone
    std::condition_variable work_;
    std::condition_variable done_;
    std::deque<Op> queue_;
    std::size_t busy_ = 0;
    bool stopping_ = false;
    std::optional<Error> error_;
    std::vector<std::jthread> threads_;
};

}  // namespace

Result<std::unique_ptr<PageSink>> make_thread_sink(SinkTarget target) {
    auto sink = std::make_unique<ThreadSink>(std::move(target));
    TRY(sink->start());
    return std::unique_ptr<PageSink>(std::move(sink));
}

}  // namespace snapvm
