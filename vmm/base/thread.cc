// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/thread.h"

#include <pthread.h>
#include <signal.h>

#include <string>
#include <system_error>
#include <utility>

namespace snapvm {
namespace {

// Blocks signals before a thread starts. The new thread inherits the mask, so no signal reaches it
// before it could block them itself.
class SignalsBlocked {
public:
    SignalsBlocked() {
        sigset_t blocked;
        sigfillset(&blocked);
        // A blocked fault kills the process at once, without the handler that the program has for
        // it.
        for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT}) {
            sigdelset(&blocked, fault);
        }
        ::pthread_sigmask(SIG_SETMASK, &blocked, &before_);
    }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;
    ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_{};
};

}  // namespace

std::string_view name_of(ThreadRole role) {
    switch (role) {
        case ThreadRole::vcpu: return "vcpu";
        case ThreadRole::devices: return "devices";
        case ThreadRole::io: return "io";
        case ThreadRole::snapshot: return "snapshot";
        case ThreadRole::faults: return "faults";
        case ThreadRole::pause: return "pause";
        case ThreadRole::throttle: return "throttle";
        case ThreadRole::quiet: return "quiet";
        case ThreadRole::api: return "api";
        case ThreadRole::console: return "console";
        case ThreadRole::output: return "output";
        case ThreadRole::input: return "input";
        case ThreadRole::progress: return "progress";
        case ThreadRole::end_limit: return "end-limit";
    }
    return "snapvm";
}

Result<std::thread> start_thread(ThreadRole role, std::function<void()> work, unsigned number) {
    std::string name(name_of(role));
    if (role == ThreadRole::vcpu) {
        name += std::to_string(number);
    }
    const SignalsBlocked blocked;
    try {
        return std::thread([name, work = std::move(work)] {
            ::pthread_setname_np(::pthread_self(), name.c_str());
            work();
        });
    } catch (const std::system_error& error) {
        return fail(Error::system("pthread_create", "thread " + name, error.code().value(),
                                  "raise the limit of processes (ulimit -u)"));
    }
}

}  // namespace snapvm
