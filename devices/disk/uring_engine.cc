// SPDX-License-Identifier: Apache-2.0
#include <liburing.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "devices/disk/engine.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

void prepare(io_uring_sqe* sqe, DiskCall& call) {
    const auto parts = static_cast<unsigned>(call.buffers.size());
    switch (call.kind) {
        case DiskCall::Kind::read: ::io_uring_prep_readv2(sqe, call.fd, call.buffers.data(), parts, call.offset, call.flags); break;
        case DiskCall::Kind::write:
            ::io_uring_prep_writev2(sqe, call.fd, call.buffers.data(), parts, call.offset, call.flags);
            break;
        case DiskCall::Kind::flush: ::io_uring_prep_fsync(sqe, call.fd, IORING_FSYNC_DATASYNC); break;
        case DiskCall::Kind::allocate:
            ::io_uring_prep_fallocate(sqe, call.fd, call.flags, static_cast<off_t>(call.offset), static_cast<off_t>(call.size));
            break;
        case DiskCall::Kind::discard: ::io_uring_prep_nop(sqe); break;  // no such operation: the threads' (RawDisk::engine_for)
    }
    ::io_uring_sqe_set_data(sqe, &call);
}

class UringEngine final : public DiskEngine {
public:
    explicit UringEngine(int event) : event_(event) {}
    ~UringEngine() override {
        if (!open_) {
            return;
        }
        io_uring_cqe* cqe = nullptr;
        while (in_kernel_ > 0) {
            const int result = ::io_uring_wait_cqe(&ring_, &cqe);
            if (result == 0) {
                ::io_uring_cqe_seen(&ring_, cqe);
                --in_kernel_;
            } else if (result != -EINTR && result != -EAGAIN) {
                break;  // closing the ring cancels what it can and waits for the rest
            }
        }
        ::io_uring_queue_exit(&ring_);
    }

    Status open(unsigned depth) {
        if (const int error = ::io_uring_queue_init(depth, &ring_, IORING_SETUP_CLAMP); error < 0) {
            return fail(Error::system("io_uring_setup", "disk", -error, "SNAPVM_IO=threads does without"));
        }
        open_ = true;
        if (const int error = ::io_uring_register_eventfd(&ring_, event_); error < 0) {
            return fail(Error::system("io_uring_register", "disk", -error, "SNAPVM_IO=threads does without"));
        }
        return {};
    }

    void add(DiskCall& call) override {
        io_uring_sqe* sqe = broken_ ? nullptr : ::io_uring_get_sqe(&ring_);
        if (sqe == nullptr && !broken_) {
            submit();
            sqe = broken_ ? nullptr : ::io_uring_get_sqe(&ring_);
        }
        if (sqe == nullptr) {
            lose(call);
            return;
        }
        prepare(sqe, call);
        added_.push_back(&call);
    }

    void submit() override {
        while (!added_.empty() && !broken_) {
            const int result = ::io_uring_submit(&ring_);
            if (result > 0) {
                in_kernel_ += static_cast<unsigned>(result);
                added_.erase(added_.begin(), added_.begin() + result);
            } else if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM || result == 0) {
                wake();  // no memory for it in the kernel right now: once more from the next reap
                return;
            } else if (result != -EINTR) {
                // Forbidden since the ring was made. What has not begun never does, as nobody enters the ring again.
                broken_ = true;
                for (DiskCall* call : added_) {
                    lose(*call);
                }
                added_.clear();
            }
        }
    }

    void reap(const Ended& ended) override {
        std::array<io_uring_cqe*, 64> cqes;
        while (const unsigned count = ::io_uring_peek_batch_cqe(&ring_, cqes.data(), cqes.size())) {
            for (unsigned i = 0; i < count; ++i) {
                done_.push_back({static_cast<DiskCall*>(::io_uring_cqe_get_data(cqes[i])), cqes[i]->res});
            }
            ::io_uring_cq_advance(&ring_, count);
            in_kernel_ -= count;
        }
        std::vector<Done> done;
        done.swap(done_);
        for (const Done& one : done) {
            ended(*one.call, one.result);
        }
        done.clear();
        if (done_.empty()) {
            done_.swap(done);  // its memory is for the next time
        }
    }

private:
    struct Done {
        DiskCall* call;
        std::int64_t result;
    };
    void wake() { (void)::eventfd_write(event_, 1); }
    void lose(DiskCall& call) {
        done_.push_back({&call, -EIO});
        wake();
    }

    int event_;
    io_uring ring_{};
    bool open_ = false;
    bool broken_ = false;
    unsigned in_kernel_ = 0;
    std::vector<DiskCall*> added_;  ///< in the submission queue, in its order
    std::vector<Done> done_;
};

}  // namespace

Result<std::unique_ptr<DiskEngine>> make_uring_engine(int event, unsigned depth) {
    auto engine = std::make_unique<UringEngine>(event);
    TRY(engine->open(depth));
    return std::unique_ptr<DiskEngine>(std::move(engine));
}

}  // namespace snapvm
