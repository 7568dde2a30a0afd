// SPDX-License-Identifier: Apache-2.0
#include "vmm/vcpu/tsc.h"

#include <algorithm>
#include <string>

namespace snapvm {

bool same_tsc_frequency(std::uint32_t a_khz, std::uint32_t b_khz) {
    constexpr std::uint64_t kTolerancePpm = 250;
    const std::uint64_t apart = std::max(a_khz, b_khz) - std::min(a_khz, b_khz);
    return a_khz == 0 || b_khz == 0 || apart * 1'000'000 <= kTolerancePpm * b_khz;
}

Status match_tsc_frequency(const kvm::System& system, kvm::VcpuFd& vcpu, std::uint32_t saved_khz) {
    const std::uint32_t host_khz = vcpu.tsc_khz();
    if (same_tsc_frequency(saved_khz, host_khz)) {
        return {};
    }
    // Reads the frequency back, since a KVM may accept the value and ignore it.
    if (system.capabilities().tsc_control != 0 && vcpu.set_tsc_khz(saved_khz) &&
        same_tsc_frequency(saved_khz, vcpu.tsc_khz())) {
        return {};
    }
    return fail(
        ErrorKind::unsupported,
        "the snapshot's TSC runs at " + std::to_string(saved_khz) + " kHz, this host's at " + std::to_string(host_khz) +
            " kHz, and KVM cannot scale it here",
        "restore it on a host of the snapshot's frequency, or on one that scales the TSC (see TSC in snapvm doctor)");
}

std::uint64_t tsc_cycles(std::uint64_t nanoseconds, std::uint32_t khz) {
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(nanoseconds) * khz / 1'000'000);
}

bool tsc_was_set(std::uint64_t wanted, std::uint64_t found, std::uint64_t elapsed_ns, std::uint32_t khz) {
    constexpr std::uint64_t kSlackNs = 10'000'000;
    const std::uint64_t slack = tsc_cycles(kSlackNs, khz);
    // Modulo 2^64, so that a value slightly below `wanted` passes, too.
    return found - wanted + slack <= tsc_cycles(elapsed_ns, khz) + 2 * slack;
}

std::uint64_t move_deadline(std::uint64_t deadline, std::uint64_t wanted, std::uint64_t found) {
    if (deadline == 0) {
        return 0;
    }
    if (deadline <= wanted) {
        const std::uint64_t late = wanted - deadline;
        return found > late ? found - late : 1;
    }
    const std::uint64_t left = deadline - wanted;
    return left > ~std::uint64_t{0} - found ? ~std::uint64_t{0} : found + left;
}

}  // namespace snapvm
