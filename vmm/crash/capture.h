// SPDX-License-Identifier: Apache-2.0
// Fills a crash report. Everything it reads may be damaged; it leaves out what it cannot read, and
// never fails.
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

/// A vCPU in the state in which it failed.
struct FailedVcpu {
    CrashReport::Ending ending;
    std::optional<kvm_regs> regs;
    std::optional<kvm_sregs> sregs;
    std::vector<std::string> left_out;
};

/// The newest output of one of the guest's lines.
struct ConsoleTail {
    std::string name;
    std::string bytes;
    bool whole = true;  ///< no output precedes these bytes
};

/// The most bytes of a console that a caller passes.
inline constexpr std::size_t kConsoleTail = 8192;

/// Reads a vCPU's state. The thread whose KVM_RUN just returned calls it. `run_error` is KVM_RUN's
/// errno, 0 if it succeeded.
[[nodiscard]] FailedVcpu read_failed_vcpu(const kvm::VcpuFd& vcpu, int run_error);
/// Decodes what KVM reports in `run`: the part of FailedVcpu that needs no vCPU.
[[nodiscard]] CrashReport::Ending ending_of(const kvm_run& run, std::uint32_t vcpu, int run_error);

/// Makes a report. Other vCPUs may be running. It only reads `memory`, and reads none after a
/// KVM_RUN that failed with EFAULT or EHWPOISON: the same read would kill this process.
[[nodiscard]] CrashReport capture_crash(std::string reason, FailedVcpu failed, GuestMemory& memory,
                                        std::span<const ConsoleTail> consoles);

}  // namespace snapvm
