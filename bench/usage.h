// SPDX-License-Identifier: Apache-2.0
// What a machine in this process has cost so far: processor time, and how often its vCPUs left the
// guest.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {
class Machine;
}

namespace snapvm::bench {

/// Counts since the start. `exits` is KVM's own count and includes exits that KVM handles itself,
/// such as a doorbell or a halt. `our_exits` counts those that reached the VMM.
struct Usage {
    std::uint64_t cpu_ns = 0;  ///< of all threads, the vCPUs' time in the guest included
    std::uint64_t devices_cpu_ns = 0;  ///< of the thread that serves the devices
    std::uint64_t exits = 0;
    std::uint64_t our_exits = 0;
    std::uint64_t halts = 0;
    std::uint64_t injections = 0;  ///< injected interrupts

    [[nodiscard]] Usage since(const Usage& earlier) const;
    /// Returns NAME=NUMBER for each member, times in ns, in the form that parse_parts() reads.
    [[nodiscard]] std::string text() const;
};

/// Reads the usage of the one machine in this process.
class UsageMeter {
public:
    /// Opens the counters of a paused machine: KVM hands out a vCPU's statistics (KVM_GET_STATS_FD)
    /// only while the vCPU does not run. They can be read at any time.
    static Result<UsageMeter> open(const Machine& machine);
    Result<Usage> now() const;

private:
    static constexpr std::size_t kCounts = 3;
    struct Vcpu {
        UniqueFd statistics;
        std::array<std::uint64_t, kCounts> places{};  ///< offsets of `exits`, `halts` and `injections`
    };
    static Result<Vcpu> open_vcpu(int fd);
    const Machine* machine_ = nullptr;
    std::vector<Vcpu> vcpus_;
};

}  // namespace snapvm::bench
