// SPDX-License-Identifier: Apache-2.0
// How a machine's run ends: at the guest's request, from outside, or because a vCPU cannot go on.
#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/crash/capture.h"
#include "vmm/machine/machine.h"

namespace snapvm {
namespace {

ConsoleTail tail_of(const Console& console, std::string name) {
    const std::uint64_t end = console.end();
    const std::uint64_t from = end - std::min<std::uint64_t>(end, kConsoleTail);
    return {.name = std::move(name),
            .bytes = console.read(from, std::chrono::steady_clock::now()).bytes,
            .whole = from == 0};
}

}  // namespace

void Machine::end(Outcome outcome) {
    {
        const std::lock_guard events(events_);
        if (outcome_) {
            return;
        }
        outcome_ = std::move(outcome);
    }
    event_.notify_all();
    if (vcpus_) {
        vcpus_->request_end();
    }
}

std::optional<Outcome> Machine::wait_ended(std::chrono::steady_clock::time_point deadline) const {
    std::unique_lock events(events_);
    event_.wait_until(events, deadline, [this] { return outcome_.has_value(); });
    return outcome_;
}

bool Machine::wait_ready(std::chrono::steady_clock::time_point deadline) const {
    std::unique_lock events(events_);
    event_.wait_until(events, deadline, [this] { return ready_ || outcome_.has_value(); });
    return ready_;
}

void Machine::request(GuestRequest what, std::uint8_t exit_code) {
    switch (what) {
        case GuestRequest::reboot: end({.kind = Outcome::Kind::reboot, .code = 0, .error = {}}); break;
        case GuestRequest::power_off: end({.kind = Outcome::Kind::power_off, .code = 0, .error = {}}); break;
        case GuestRequest::panic: end({.kind = Outcome::Kind::guest_panic, .code = 0, .error = {}}); break;
        case GuestRequest::exit_code: end({.kind = Outcome::Kind::guest_exit, .code = exit_code, .error = {}}); break;
    }
}

void Machine::triple_fault(const kvm::VcpuFd& vcpu) {
    end_with_report({.kind = Outcome::Kind::triple_fault, .code = 0, .error = {}},
                    "the guest shut itself down by a triple fault", vcpu, 0);
}

void Machine::vcpu_failed(const kvm::VcpuFd& vcpu, Error error) {
    // KVM_RUN fails so if it cannot read a page, as one behind the end of a file that was cut
    // short.
    const auto blocks = memory_.blocks();
    const auto mapped = std::ranges::find_if(blocks, [](const auto& block) { return block.origin() != nullptr; });
    if (error.code() == EFAULT && mapped != blocks.end()) {
        error = std::move(error).advise(unreadable_text(*mapped->origin()));
    }
    const std::string reason = error.message();
    const int run_error = error.code();
    end_with_report({.kind = Outcome::Kind::failed, .code = 0, .error = std::move(error)}, reason, vcpu, run_error);
}

void Machine::end_with_report(Outcome outcome, const std::string& reason, const kvm::VcpuFd& vcpu, int run_error) {
    if (wait_ended(std::chrono::steady_clock::now())) {
        return;  // maybe by another vCPU; the first outcome stays
    }
    const std::array consoles{tail_of(serial_.output(), "serial port"),
                              tail_of(virtio_console_.output(), "virtio console")};
    outcome.crash = std::make_shared<const CrashReport>(
        capture_crash(reason, read_failed_vcpu(vcpu, run_error), memory_, consoles));
    end(std::move(outcome));
}

void Machine::failed(Error error) { end({.kind = Outcome::Kind::failed, .code = 0, .error = std::move(error)}); }

}  // namespace snapvm
