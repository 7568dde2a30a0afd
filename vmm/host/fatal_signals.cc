// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/fatal_signals.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <utility>
#include <vector>

#include "vmm/base/printable.h"

namespace snapvm {
namespace {

struct Range {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
};

/// What is said of one way to die.
struct Words {
    std::string line;     ///< for stderr
    std::string outcome;  ///< for the file; empty: none
};

// What the handler uses. It allocates nothing and takes no lock (signal-safety(7)), so all text is
// made before.
struct Prepared {
    std::string name;
    std::string snapshot_message;  ///< empty: the machine was not restored
    std::vector<Range> snapshot_memory;
    bool dumps_core = false;
    int folder = -1;
    const char* file = nullptr;
    std::function<std::string(const std::string&)> outcome;
    Words any;
    Words snapshot;

    void make_words() {
        any = words("snapvm itself has failed (a memory fault or an abort); please report it");
        snapshot = words(snapshot_message);
    }
    [[nodiscard]] bool is_in_snapshot(std::uintptr_t at) const {
        return std::ranges::any_of(snapshot_memory,
                                   [=](const Range& range) { return at >= range.begin && at < range.end; });
    }

private:
    [[nodiscard]] Words words(const std::string& message) const {
        return {"snapvm: " + name + ": " + message + "\n", outcome ? outcome(message) : ""};
    }
};

// The newest one is the handler's. A handler may be at work with an older one, so none is
// destroyed; there are few.
std::atomic<const Prepared*> newest = nullptr;

void prepare(const std::function<void(Prepared&)>& change) {
    static std::mutex one_at_a_time;
    static auto& all = *new std::list<Prepared>;  // a signal may come at the end of the process
    const std::lock_guard lock(one_at_a_time);
    Prepared& next = all.empty() ? all.emplace_back() : all.emplace_back(all.back());
    change(next);
    next.make_words();
    newest.store(&next, std::memory_order_release);
}

void say(const Prepared& all, const Words& words) {
    if (!words.outcome.empty()) {
        const int file = ::openat(all.folder, all.file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        (void)!::write(file, words.outcome.data(), words.outcome.size());
    }
    pollfd entry{STDERR_FILENO, POLLOUT, 0};
    if (::poll(&entry, 1, 0) > 0) {  // stderr may be a pipe that nobody reads
        (void)!::write(STDERR_FILENO, words.line.data(), words.line.size());
    }
}

void die(int signal, siginfo_t* info, void* /*context*/) {
    static std::atomic_flag dying;
    while (dying.test_and_set()) {
        ::pause();  // another thread ends the process
    }
    const Prepared& all = *newest.load(std::memory_order_acquire);
    if (signal == SIGBUS && all.is_in_snapshot(reinterpret_cast<std::uintptr_t>(info->si_addr))) {
        say(all, all.snapshot);
        ::_exit(1);
    }
    say(all, all.any);
    if (!all.dumps_core) {
        ::_exit(1);
    }
    ::signal(signal, SIG_DFL);
    ::raise(signal);
}

}  // namespace

void report_fatal_signals(const std::string& name) {
    prepare([&](Prepared& all) {
        all.name = name;
        rlimit core{};
        all.dumps_core = ::getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur > 0;
    });
    for (const int signal : {SIGBUS, SIGSEGV, SIGABRT}) {
        struct sigaction now{};
        if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) {
            struct sigaction ours{};
            ours.sa_sigaction = die;
            ours.sa_flags = SA_SIGINFO;
            ::sigaction(signal, &ours, nullptr);
        }
    }
}

void keep_fatal_outcome(int folder, const char* file, std::function<std::string(const std::string&)> outcome) {
    prepare([&](Prepared& all) {
        all.folder = folder;
        all.file = file;
        all.outcome = std::move(outcome);
    });
}

void name_snapshot_of(const GuestMemory& memory) {
    prepare([&](Prepared& all) {
        all.snapshot_memory.clear();
        for (const MemoryBlock& block : memory.blocks()) {
            if (block.origin() != nullptr) {
                const auto begin = reinterpret_cast<std::uintptr_t>(block.host());
                all.snapshot_memory.push_back({begin, begin + block.spec().size});
                all.snapshot_message = printable(unreadable_text(*block.origin()));
            }
        }
    });
}

}  // namespace snapvm
