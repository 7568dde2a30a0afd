// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/page_sink.h"

#include <cerrno>
#include <utility>

#include "vmm/base/try.h"

namespace snapvm {

Result<std::unique_ptr<PageSink>> PageSink::open(SinkTarget target, io::EngineKind kind) {
    io::EngineOptions options{.depth = kMaxInFlight};
    if (target.hook) {
        options.hook = [hook = target.hook](const io::Request& request) {
            return hook({IoStep::pages, request.offset, request.size});
        };
    }
    auto engine = TRY(io::make_engine(kind, std::move(options)));
    return std::unique_ptr<PageSink>(new PageSink(std::move(target), std::move(engine)));
}

PageSink::PageSink(SinkTarget target, std::unique_ptr<io::Engine> engine)
    : target_(std::move(target)), engine_(std::move(engine)) {
    for (Write& write : writes_) {
        write.kind = io::Request::Kind::write;
        write.fd = target_.fd;
        free_.push_back(&write);
    }
}

Status PageSink::write(std::span<const std::byte> data, std::uint64_t offset) {
    while (!error_ && free_.empty()) {
        wait();
    }
    if (!error_) {
        Write& write = *free_.back();
        free_.pop_back();
        write.left = data;
        write.offset = offset;
        begin(write);
        reap();
    }
    return status();
}

Status PageSink::drain() {
    while (free_.size() < kMaxInFlight && !lost_) {
        wait();
    }
    return status();
}

void PageSink::begin(Write& write) {
    write.size = write.left.size();
    write.buffers.assign(1, {const_cast<std::byte*>(write.left.data()), write.size});
    engine_->add(write);
    engine_->submit();
}

void PageSink::wait() {
    if (Status ended = engine_->wait(); !ended) {
        keep_error(std::move(ended).error().within(target_.name));
        lost_ = true;
        return;
    }
    reap();
}

void PageSink::reap() {
    for (const io::Completion& one : engine_->reap()) {
        auto& write = static_cast<Write&>(*one.request);
        const std::int64_t result = one.result;
        if (result == -EINTR || result == -EAGAIN) {
            begin(write);
            continue;
        }
        if (result <= 0) {
            keep_error(Error::system("write", target_.name, result == 0 ? ENOSPC : static_cast<int>(-result)));
        } else if (static_cast<std::uint64_t>(result) < write.left.size() && !error_) {
            write.left = write.left.subspan(static_cast<std::size_t>(result));
            write.offset += static_cast<std::uint64_t>(result);
            begin(write);
            continue;
        }
        free_.push_back(&write);
    }
}

void PageSink::keep_error(Error error) {
    if (!error_) {
        error_ = std::move(error);
    }
}

}  // namespace snapvm
