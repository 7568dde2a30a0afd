// SPDX-License-Identifier: Apache-2.0
// How a machine pauses itself: a device cannot go on until the host has done something.
#include <algorithm>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"
#include "vmm/machine/machine.h"

namespace snapvm {

Status Machine::watch_for_own_pause() {
    const auto stops = [](const DiskConfig& disk) { return disk.write_errors == WriteErrors::stop; };
    if (std::ranges::any_of(config_.devices.disks, stops)) {
        own_pause_ = TRY(start_thread(ThreadRole::pause, [this] { pause_on_request(); }));
    }
    return {};
}

void Machine::request_pause(const Error& why) {
    {
        const std::lock_guard events(events_);
        if (pause_wish_) {
            return;
        }
        pause_wish_ = why;
    }
    event_.notify_all();
}

void Machine::pause_on_request() {
    while (true) {
        {
            std::unique_lock events(events_);
            event_.wait(events, [this] { return outcome_ || (pause_wish_ && !pause_reason_); });
            if (outcome_) {
                return;
            }
        }
        // Fails if another disk does not answer; then the next try waits for it again.
        if (quiesce([] { return Status{}; })) {
            pause_for_wish();
        }
    }
}

// The devices are quiesced. The wish may be gone by now, after a resume.
void Machine::pause_for_wish() {
    std::function<void(const Error&)> tell;
    std::optional<Error> why;
    {
        const std::lock_guard control(control_);
        {
            const std::lock_guard events(events_);
            if (pause_wish_ && !outcome_) {
                why = pause_reason_ = pause_wish_;
                tell = tell_pause_;
            }
        }
        if (why) {
            paused_ = true;
            vcpus_->pause();
        }
    }
    unquiesce();
    if (tell) {
        tell(*why);
    }
}

std::optional<Error> Machine::pause_reason() const {
    const std::lock_guard events(events_);
    return pause_reason_;
}

void Machine::on_own_pause(const std::function<void(const Error& why)>& tell) {
    std::optional<Error> why;
    {
        const std::lock_guard events(events_);
        tell_pause_ = tell;
        why = pause_reason_;
    }
    if (why && tell) {
        tell(*why);
    }
}

}  // namespace snapvm
