// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/snapshot_watch.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "vmm/base/thread.h"
#include "vmm/cli/control.h"
#include "vmm/memory/gpa.h"

namespace snapvm::cli {
namespace {

constexpr int kRefreshMs = 200;

sigset_t ending_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

}  // namespace

std::string progress_text(const std::string& status) {
    const auto json = nlohmann::json::parse(status, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
        return {};
    }
    const std::string phase = json.value("phase", "");
    const auto number = [&](const char* name) { return static_cast<double>(json.value(name, std::uint64_t{0})); };
    constexpr double kMiB = 1 << 20;
    std::array<char, 200> text;
    if (phase == "none") {
        return "no snapshot has been made";
    }
    if (phase == "done") {
        return json.contains("fault_message") ? "failed: " + json.value("fault_message", "") : "done";
    }
    const double seconds = number("elapsed_us") / 1e6;
    const double pages = number("round_pages");
    const double done = number("round_done");
    const double left = done > 0 && pages > done ? seconds * (pages - done) / done : 0;
    if (phase == "detaching") {
        std::snprintf(text.data(), text.size(), "detaching: %.0f of %.0f MiB, about %.1f s left",
                      done * kPageSize / kMiB, pages * kPageSize / kMiB, left);
        return text.data();
    }
    std::snprintf(
        text.data(), text.size(),
        "%s, round %.0f: %.0f of %.0f pages, %.0f MiB written, %.0f MiB/s, staged %.0f MiB, about %.1f s left",
        phase.c_str(), number("round"), done, pages, number("written_bytes") / kMiB,
        seconds > 0 ? number("written_bytes") / kMiB / seconds : 0, number("staged_bytes") / kMiB, left);
    return text.data();
}

SnapshotWatch::SnapshotWatch(const Globals& globals, std::string name)
    : globals_(globals),
      name_(std::move(name)),
      terminal_(::isatty(STDERR_FILENO) != 0),
      over_(::eventfd(0, EFD_CLOEXEC)) {
    const sigset_t set = ending_signals();
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC));
    // Without the thread the command works, too: it shows no progress, and Ctrl-C ends this process
    // alone.
    if (auto thread = start_thread(ThreadRole::progress, [this] { run(); })) {
        thread_ = *std::move(thread);
    } else {
        ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    }
}

void SnapshotWatch::end() {
    if (thread_.joinable()) {
        (void)::eventfd_write(over_.get(), 1);
        thread_.join();
    }
}

void SnapshotWatch::run() {
    while (true) {
        std::array<pollfd, 2> fds = {{{over_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}}};
        const int ready = ::poll(fds.data(), fds.size(), terminal_ ? kRefreshMs : -1);
        if (ready > 0 && fds[0].revents != 0) {
            if (shown_) {
                show_progress("");
            }
            return;
        }
        if (ready > 0 && fds[1].revents != 0) {
            cancel();
        } else if (ready == 0) {
            show();
        }
    }
}

void SnapshotWatch::cancel() {
    signalfd_siginfo info{};
    (void)!::read(signals_.get(), &info, sizeof info);
    if (auto client = connect_machine(globals_, name_)) {
        (void)ask(*client, "PUT", "/snapshot/cancel", "", kQuickAnswer);
    }
    // The next signal ends this process.
    const sigset_t set = ending_signals();
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void SnapshotWatch::show() {
    auto client = connect_machine(globals_, name_);
    if (!client) {
        return;
    }
    if (const auto status = ask(*client, "GET", "/snapshot/status", "", kQuickAnswer)) {
        show_progress(progress_text(*status));
        shown_ = true;
    }
}

}  // namespace snapvm::cli
