// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/end_limit.h"

#include <poll.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "vmm/base/thread.h"

namespace snapvm {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void end_process(int exit_code, bool amid_snapshot) {
    const std::string_view line =
        amid_snapshot ? "snapvm: the snapshot does not get on; the process ends without it\n"
                      : "snapvm: a disk, or the reader of the output, does not answer; the process ends without it\n";
    pollfd entry{STDERR_FILENO, POLLOUT, 0};
    if (::poll(&entry, 1, 0) > 0) {  // stderr may be the pipe that nobody reads
        (void)!::write(STDERR_FILENO, line.data(), line.size());
    }
    ::_exit(exit_code);
}

}  // namespace

void EndLimit::set(Times times, int exit_code, Progress progress) {
    const std::lock_guard lock(mutex_);
    if (thread_.joinable()) {
        return;
    }
    progress_ = std::move(progress);
    if (auto thread = start_thread(ThreadRole::end_limit, [=, this] { watch(times, exit_code); })) {
        thread_ = *std::move(thread);
    }
}

void EndLimit::forget_progress() {
    const std::lock_guard lock(mutex_);
    progress_ = nullptr;
}

void EndLimit::watch(Times times, int exit_code) {
    constexpr std::chrono::milliseconds kSlice{50};
    std::unique_lock lock(mutex_);
    std::optional<std::uint64_t> last;
    Clock::time_point since = Clock::now();
    while (!over_changed_.wait_for(lock, kSlice, [this] { return over_; })) {
        const std::optional<std::uint64_t> now = progress_ ? progress_() : std::nullopt;
        if (now != last) {
            last = now;
            since = Clock::now();
        }
        if (Clock::now() - since >= (last ? times.snapshot : times.rest)) {
            end_process(exit_code, last.has_value());
        }
    }
}

EndLimit::~EndLimit() {
    {
        const std::lock_guard lock(mutex_);
        over_ = true;
    }
    over_changed_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

}  // namespace snapvm
