// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/fatal_signals.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

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
    Words any;
    Words snapshot;
    std::array<Range, 8> snapshot_memory;
    std::atomic<std::size_t> ranges = 0;  ///< those of snapshot_memory that are set
    bool dumps_core = false;
    int folder = -1;
    const char* file = nullptr;
    std::function<std::string(const std::string&)> outcome;

    [[nodiscard]] Words words(const std::string& message) const {
        return {"snapvm: " + name + ": " + message + "\n", outcome ? outcome(message) : ""};
    }
};
Prepared& prepared() {
    static auto& all = *new Prepared;  // never destroyed: a signal may come at the end
    return all;
}

bool is_in_snapshot(const Prepared& all, std::uintptr_t at) {
    for (std::size_t i = 0; i < all.ranges.load(std::memory_order_acquire); ++i) {
        if (at >= all.snapshot_memory[i].begin && at < all.snapshot_memory[i].end) {
            return true;
        }
    }
    return false;
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
    const Prepared& all = prepared();
    if (signal == SIGBUS && is_in_snapshot(all, reinterpret_cast<std::uintptr_t>(info->si_addr))) {
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
    Prepared& all = prepared();
    all.name = name;
    all.any = all.words("snapvm itself has failed (a memory fault or an abort); please report it");
    rlimit core{};
    all.dumps_core = ::getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur > 0;
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
    Prepared& all = prepared();
    all.folder = folder;
    all.file = file;
    all.outcome = std::move(outcome);
    report_fatal_signals(all.name);
}

void name_snapshot_of(const GuestMemory& memory) {
    Prepared& all = prepared();
    std::size_t count = 0;
    for (const MemoryBlock& block : memory.blocks()) {
        if (block.origin() != nullptr && count < all.snapshot_memory.size()) {
            const auto begin = reinterpret_cast<std::uintptr_t>(block.host());
            all.snapshot_memory[count++] = {begin, begin + block.spec().size};
            all.snapshot = all.words(printable(unreadable_text(*block.origin())));
        }
    }
    all.ranges.store(count, std::memory_order_release);
}

}  // namespace snapvm
