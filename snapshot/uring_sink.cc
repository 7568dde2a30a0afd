// SPDX-License-Identifier: Apache-2.0
#include <liburing.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "snapshot/page_sink.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr unsigned kDepth = 16;

class Ring {
public:
    Ring() = default;
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;
    ~Ring() {
        if (ready_) {
            ::io_uring_queue_exit(&ring_);
        }
    }
    Status open() {
        if (const int error = ::io_uring_queue_init(kDepth, &ring_, 0); error < 0) {
            return fail(Error::system("io_uring_setup", "", -error, "SNAPVM_IO=threads does without"));
        }
        ready_ = true;
        return {};
    }
    io_uring* get() { return &ring_; }

private:
    io_uring ring_{};
    bool ready_ = false;
};

class UringSink final : public PageSink {
public:
    explicit UringSink(SinkTarget target) : target_(std::move(target)) {
        for (unsigned i = 0; i < kDepth; ++i) {
            free_.push_back(i);
        }
    }
    ~UringSink() override { (void)drain(); }

    Status open() { return ring_.open(); }
    [[nodiscard]] std::string_view name() const override { return "io_uring"; }

    Status write(std::span<const std::byte> data, std::uint64_t offset) override {
        while (!error_ && free_.empty()) {
            reap();
        }
        if (error_) {
            return fail(*error_);
        }
        const unsigned index = free_.back();
        free_.pop_back();
        ops_[index] = {data, offset};
        submit(index);
        return error_ ? fail(*error_) : Status{};
    }

    Status drain() override {
        while (free_.size() < kDepth && !lost_) {
            reap();
        }
        return error_ ? fail(*error_) : Status{};
    }

private:
    struct Op {
        std::span<const std::byte> data;
        std::uint64_t offset = 0;
    };

    void keep_error(Error error) {
        if (!error_) {
            error_ = std::move(error);
        }
    }

    void submit(unsigned index) {
        const Op& op = ops_[index];
        std::size_t size = op.data.size();
        if (target_.hook) {
            const IoFault fault = target_.hook({IoStep::pages, op.offset, size});
            if (fault.error != 0) {
                keep_error(Error::system("write", target_.name, fault.error));
                free_.push_back(index);
                return;
            }
            size = fault.short_to == 0 ? size : std::min<std::size_t>(size, fault.short_to);
        }
        // There are as many entries as operations, so one is always free.
        io_uring_sqe* sqe = ::io_uring_get_sqe(ring_.get());
        ::io_uring_prep_write(sqe, target_.fd, op.data.data(), static_cast<unsigned>(size), op.offset);
        ::io_uring_sqe_set_data64(sqe, index);
        int result = 0;
        do {
            result = ::io_uring_submit(ring_.get());
        } while (result == -EINTR || result == -EAGAIN);
        if (result < 0) {
            keep_error(Error::system("io_uring_enter", target_.name, -result));
            free_.push_back(index);
        }
    }

    // Waits for one completion and deals with it.
    void reap() {
        io_uring_cqe* cqe = nullptr;
        int result = 0;
        do {
            result = ::io_uring_wait_cqe(ring_.get(), &cqe);
        } while (result == -EINTR || result == -EAGAIN);
        if (result < 0) {
            // Nothing more can be learnt of what is in flight; closing the ring cancels it and waits.
            keep_error(Error::system("io_uring_enter", target_.name, -result));
            lost_ = true;
            return;
        }
        const auto index = static_cast<unsigned>(::io_uring_cqe_get_data64(cqe));
        const int written = cqe->res;
        ::io_uring_cqe_seen(ring_.get(), cqe);
        Op& op = ops_[index];
        if (written == -EINTR || written == -EAGAIN) {
            submit(index);
            return;
        }
        if (written <= 0) {
            keep_error(Error::system("write", target_.name, written == 0 ? ENOSPC : -written));
        } else if (static_cast<std::size_t>(written) < op.data.size() && !error_) {
            op.data = op.data.subspan(static_cast<std::size_t>(written));
            op.offset += static_cast<std::uint64_t>(written);
            submit(index);
            return;
        }
        free_.push_back(index);
    }

    SinkTarget target_;
    std::array<Op, kDepth> ops_;
    std::vector<unsigned> free_;
    std::optional<Error> error_;
    bool lost_ = false;
    Ring ring_;
};

}  // namespace

Result<std::unique_ptr<PageSink>> make_uring_sink(SinkTarget target) {
    auto sink = std::make_unique<UringSink>(std::move(target));
    TRY(sink->open());
    return std::unique_ptr<PageSink>(std::move(sink));
}

}  // namespace snapvm
