// SPDX-License-Identifier: Apache-2.0
// Fills a crash report. Everything it looks at may be damaged: what cannot be read is left out, and nothing here fails.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/crash/report.h"
#include "vmm/kvm/vcpu_fd.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// A vCPU as it failed.
struct FailedVcpu {
    CrashReport::Ending ending;
    std::optional<kvm_regs> regs;
    std::optional<kvm_sregs> sregs;
    std::vector<std::string> left_out;
};

/// The newest output of a line of the guest's.
struct ConsoleTail {
    std::string name;
    std::string bytes;
    bool whole = true;  ///< there was nothing before
};

/// How much of a console is worth handing over.
inline constexpr std::size_t kConsoleTail = 8192;

/// On the thread that has just come back from KVM_RUN. `run_error`: its errno, 0 when it returned.
[[nodiscard]] FailedVcpu read_failed_vcpu(const kvm::VcpuFd& vcpu, int run_error);
/// What KVM says in `run`, the rest of FailedVcpu aside.
[[nodiscard]] CrashReport::Ending ending_of(const kvm_run& run, std::uint32_t vcpu, int run_error);

/// Other vCPUs may be running. Only reads `memory`, and none of it after a KVM_RUN that could not (EFAULT): it would be the end of us, too.
[[nodiscard]] CrashReport capture_crash(std::string reason, FailedVcpu failed, GuestMemory& memory,
                                        std::span<const ConsoleTail> consoles);

}  // namespace snapvm
