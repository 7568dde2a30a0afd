// SPDX-License-Identifier: Apache-2.0
// What a machine in this process has cost so far: processor time, and how often its vCPUs left the guest.
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

/// Counts since the start. Exits are KVM's own count: those that it deals with itself, a doorbell or a halt, are among them; those that came
/// to us are counted apart.
struct Usage {
    std::uint64_t cpu_ns = 0;  ///< of all threads, the vCPUs' time in the guest included
    std::uint64_t devices_cpu_ns = 0;  ///< of the devices' thread
    std::uint64_t exits = 0;
    std::uint64_t our_exits = 0;
    std::uint64_t halts = 0;
    std::uint64_t injections = 0;  ///< interrupts

    [[nodiscard]] Usage since(const Usage& earlier) const;
    /// NAME=NUMBER for each, times in ns, as parse_parts reads it.
    [[nodiscard]] std::string text() const;
};

/// Reads it, of the one machine of this process.
class UsageMeter {
public:
    /// The machine is paused: KVM hands a vCPU's statistics out (KVM_GET_STATS_FD) while it does not run only. They can be read at any time.
    static Result<UsageMeter> open(const Machine& machine);
    Result<Usage> now() const;

private:
    static constexpr std::size_t kCounts = 3;
    struct Vcpu {
        UniqueFd statistics;
        std::array<std::uint64_t, kCounts> places{};  ///< of `exits`, `halts` and `injections`
    };
    static Result<Vcpu> open_vcpu(int fd);
    const Machine* machine_ = nullptr;
    std::vector<Vcpu> vcpus_;
};

}  // namespace snapvm::bench
