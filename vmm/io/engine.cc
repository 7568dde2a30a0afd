// SPDX-License-Identifier: Apache-2.0
#include "vmm/io/engine.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>

#include "vmm/base/try.h"

namespace snapvm::io {
namespace {

constexpr unsigned kThreads = 4;

// Replaces `automatic` by what the environment asks for.
Result<EngineKind> chosen(EngineKind kind) {
    const char* value = std::getenv("SNAPVM_IO");  // NOLINT(concurrency-mt-unsafe): the process never sets one
    const std::string_view wish = value == nullptr ? "" : value;
    if (kind != EngineKind::automatic || wish.empty()) {
        return kind;
    }
    if (wish == "uring") {
        return EngineKind::uring;
    }
    if (wish == "threads") {
        return EngineKind::threads;
    }
    return fail(ErrorKind::usage, "SNAPVM_IO=" + std::string(wish) + " names no engine",
                "set it to uring or threads, or unset it");
}

// io_uring is forbidden by seccomp or sysctl, not built in, or cannot lock memory for its rings.
bool is_refusal(int error) { return error == ENOSYS || error == EPERM || error == EACCES || error == ENOMEM; }

void shorten(Request& request, std::uint64_t size) {
    if (request.kind != Request::Kind::read && request.kind != Request::Kind::write) {
        return;
    }
    request.size = std::min(request.size, size);
    std::uint64_t left = request.size;
    for (iovec& buffer : request.buffers) {
        buffer.iov_len = std::min<std::uint64_t>(buffer.iov_len, left);
        left -= buffer.iov_len;
    }
    std::erase_if(request.buffers, [](const iovec& buffer) { return buffer.iov_len == 0; });
}

}  // namespace

Result<std::unique_ptr<Engine>> make_engine(EngineKind kind, EngineOptions options) {
    kind = TRY(chosen(kind));
    if (kind != EngineKind::threads) {
        auto engine = make_uring_engine(options);
        if (engine || kind == EngineKind::uring || !is_refusal(engine.error().code())) {
            return engine;
        }
    }
    return make_thread_engine(std::move(options), kThreads);
}

void Engine::add(Request& request) {
    ++in_flight_;
    if (hook_) {
        const Fault fault = hook_(request);
        if (fault.error != 0) {
            end(request, -fault.error);
            wake();
            return;
        }
        if (fault.short_to != 0) {
            shorten(request, fault.short_to);
        }
    }
    queue(request);
}

Status Engine::wait() {
    submit();
    return has_ended() || in_flight_ == 0 ? Status{} : await();
}

std::span<const Completion> Engine::reap() {
    collect();
    reaped_.clear();
    reaped_.swap(ended_);
    in_flight_ -= reaped_.size();
    return reaped_;
}

void Engine::wake() const {
    if (event_ >= 0) {
        (void)::eventfd_write(event_, 1);
    }
}

}  // namespace snapvm::io
