// SPDX-License-Identifier: Apache-2.0
// This host, as far as machines need it. Every machine is made on a Host.
#pragma once

#include <snapvm/error.h>

#include <cstdint>
#include <memory>
#include <string_view>

namespace snapvm::embed {

/// Returns the version of this library: "MAJOR.MINOR.PATCH".
[[nodiscard]] std::string_view version();

/// What this host's KVM offers.
struct HostFacts {
    int kvm_api_version = 0;     ///< KVM_GET_API_VERSION: 12 on every host that opens
    std::uint32_t max_cpus = 0;  ///< vCPUs that a machine may have
    /// The two ways in which KVM can track a guest's writes. If it has neither, a guest stands
    /// still for a whole snapshot, and SnapshotOptions::track is refused.
    bool dirty_log = false;
    bool dirty_ring = false;
    /// This KVM interprets kernel mode, because the processor has neither VT-x nor AMD-V. Guests
    /// run correctly, and many times slower.
    bool kernel_mode_emulated = false;
};

/// A handle of the opened /dev/kvm. Copies share it, and each machine keeps a copy, so handles may
/// be destroyed in any order. It never changes; any thread may use it.
class Host {
public:
    /// Opens /dev/kvm and reads what it offers. It takes well under a millisecond; a program that
    /// makes many machines opens it once.
    ///
    /// Fails with system if /dev/kvm does not open (ENOENT, EACCES, …), and with unsupported if
    /// this KVM lacks something that every machine needs. The error's advice says how to get it.
    static Result<Host> open();
    Host(const Host&) = default;  // and no move, which would leave a handle of nothing
    Host& operator=(const Host&) = default;

    [[nodiscard]] const HostFacts& facts() const;

private:
    friend class Machine;
    struct Impl;
    explicit Host(std::shared_ptr<const Impl> impl);
    std::shared_ptr<const Impl> impl_;
};

}  // namespace snapvm::embed
