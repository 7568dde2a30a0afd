// SPDX-License-Identifier: Apache-2.0
#include <liburing.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include "vmm/base/try.h"
#include "vmm/io/engine.h"

namespace snapvm::io {
namespace {

// How often, and how far apart, await() asks a kernel that lacks memory for every request: for two
// seconds in all.
constexpr unsigned kTries = 200;
constexpr std::chrono::milliseconds kBetweenTries{10};

void prepare(io_uring_sqe* sqe, Request& request) {
    const auto parts = static_cast<unsigned>(request.buffers.size());
    const iovec* buffers = request.buffers.data();
    switch (request.kind) {
        // For one buffer the kernel has operations that take it as it is and copy no list.
        case Request::Kind::read:
            if (parts == 1) {
                ::io_uring_prep_read(sqe, request.fd, buffers->iov_base, static_cast<unsigned>(buffers->iov_len),
                                     request.offset);
                sqe->rw_flags = request.flags;
            } else {
                ::io_uring_prep_readv2(sqe, request.fd, buffers, parts, request.offset, request.flags);
            }
            break;
        case Request::Kind::write:
            if (parts == 1) {
                ::io_uring_prep_write(sqe, request.fd, buffers->iov_base, static_cast<unsigned>(buffers->iov_len),
                                      request.offset);
                sqe->rw_flags = request.flags;
            } else {
                ::io_uring_prep_writev2(sqe, request.fd, buffers, parts, request.offset, request.flags);
            }
            break;
        case Request::Kind::flush: ::io_uring_prep_fsync(sqe, request.fd, IORING_FSYNC_DATASYNC); break;
        case Request::Kind::allocate:
            ::io_uring_prep_fallocate(sqe, request.fd, request.flags, static_cast<off_t>(request.offset),
                                      static_cast<off_t>(request.size));
            break;
        case Request::Kind::discard: ::io_uring_prep_nop(sqe); break;  // never queued here: see queue()
    }
    ::io_uring_sqe_set_data(sqe, &request);
}

class UringEngine final : public Engine {
public:
    explicit UringEngine(EngineOptions options) : Engine(std::move(options)) {}
    ~UringEngine() override {
        if (!open_) {
            return;
        }
        while (in_kernel_ > 0 && wait_for_completion() == 0) {
            io_uring_cqe* cqe = nullptr;
            while (::io_uring_peek_cqe(&ring_, &cqe) == 0) {
                ::io_uring_cqe_seen(&ring_, cqe);
                --in_kernel_;
            }
        }
        // After an error, closing the ring cancels what it can and waits for the rest.
        ::io_uring_queue_exit(&ring_);
    }

    Status open(unsigned depth) {
        if (const int error = ::io_uring_queue_init(depth, &ring_, IORING_SETUP_CLAMP); error < 0) {
            return fail(Error::system("io_uring_setup", "", -error, "set SNAPVM_IO=threads to do without io_uring"));
        }
        open_ = true;
        if (event() < 0) {
            return {};
        }
        if (const int error = ::io_uring_register_eventfd(&ring_, event()); error < 0) {
            return fail(Error::system("io_uring_register", "", -error, "set SNAPVM_IO=threads to do without io_uring"));
        }
        return {};
    }

    [[nodiscard]] std::string_view name() const override { return "io_uring"; }

    void submit() override {
        while (!added_.empty() && !broken_) {
            fill();
            const int result = ::io_uring_submit(&ring_);
            if (result > 0) {
                in_kernel_ += static_cast<unsigned>(result);
                prepared_ -= static_cast<std::size_t>(result);
                added_.erase(added_.begin(), added_.begin() + result);
            } else if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM || result == 0) {
                wake();  // the kernel lacks memory at the moment
                break;
            } else if (result != -EINTR) {
                lose_added();  // the kernel refuses the ring since it was created
            }
        }
        if (helper_) {
            helper_->submit();
        }
    }

private:
    // io_uring has no operation for a discard, so a thread carries them out.
    void queue(Request& request) override {
        const bool discard = request.kind == Request::Kind::discard;
        if (!broken_ && !discard) {
            added_.push_back(&request);
        } else if (!broken_ && start_helper()) {
            helper_->add(request);
        } else {
            lose(request);
        }
    }

    void collect() override {
        std::array<io_uring_cqe*, 64> cqes;
        while (const unsigned count = ::io_uring_peek_batch_cqe(&ring_, cqes.data(), cqes.size())) {
            for (unsigned i = 0; i < count; ++i) {
                end(*static_cast<Request*>(::io_uring_cqe_get_data(cqes[i])), cqes[i]->res);
            }
            ::io_uring_cq_advance(&ring_, count);
            in_kernel_ -= count;
        }
        if (helper_) {
            for (const Completion& one : helper_->reap()) {
                end(*one.request, one.result);
            }
        }
    }

    Status await() override {
        for (unsigned tries = 0; in_kernel_ == 0 && !added_.empty(); ++tries) {
            if (tries == kTries) {
                lose_added();
                return {};
            }
            std::this_thread::sleep_for(kBetweenTries);
            submit();
        }
        if (in_kernel_ > 0) {  // whatever the helper does: these end at some time
            const int error = wait_for_completion();
            return error == 0 ? Status{} : fail(Error::system("io_uring_enter", "", error));
        }
        return helper_ && !has_ended() ? helper_->wait() : Status{};
    }

    // Returns 0 once the ring has a completion, else the errno.
    int wait_for_completion() {
        io_uring_cqe* cqe = nullptr;
        int result = 0;
        do {
            result = ::io_uring_wait_cqe(&ring_, &cqe);
        } while (result == -EINTR || result == -EAGAIN);
        return -result;
    }

    // Moves requests to the submission queue, as far as it has room.
    void fill() {
        while (prepared_ < added_.size()) {
            io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
            if (sqe == nullptr) {
                return;
            }
            prepare(sqe, *added_[prepared_++]);
        }
    }

    bool start_helper() {
        if (!helper_) {
            if (auto helper = make_thread_engine({.event = event()}, 1); helper) {
                helper_ = *std::move(helper);
            }
        }
        return helper_ != nullptr;
    }

    void lose(Request& request) {
        end(request, -EIO);
        wake();
    }

    // The added requests never begin, because nothing enters the ring any more.
    void lose_added() {
        broken_ = true;
        for (Request* request : added_) {
            lose(*request);
        }
        added_.clear();
        prepared_ = 0;
    }

    io_uring ring_{};
    bool open_ = false;
    bool broken_ = false;
    std::size_t in_kernel_ = 0;
    std::vector<Request*> added_;  ///< requests that the kernel does not have yet
    std::size_t prepared_ = 0;     ///< how many of them are in the submission queue: the first ones
    std::unique_ptr<Engine> helper_;
};

}  // namespace

Result<std::unique_ptr<Engine>> make_uring_engine(EngineOptions options) {
    const unsigned depth = options.depth;
    auto engine = std::make_unique<UringEngine>(std::move(options));
    TRY(engine->open(depth));
    return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace snapvm::io
