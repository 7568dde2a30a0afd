// SPDX-License-Identifier: Apache-2.0
// Descriptors that hand faults of this process to us, KVM's on a guest's behalf included. Source: ioctl_userfaultfd(2),
// Documentation/admin-guide/mm/userfaultfd.rst.
#pragma once

#include <cstdint>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// UFFD_FEATURE_WP_UNPOPULATED, of Linux 6.4: Debian 12's headers are older.
inline constexpr std::uint64_t kUffdProtectsUnpopulated = 1ULL << 13;

/// One that takes KVM's faults, which come from the kernel: by capability or sysctl, or by the right to open the device.
struct Userfaultfd {
    UniqueFd fd;
    std::string_view way;  ///< "system call" or "/dev/userfaultfd"
};

/// Not agreed with the kernel yet. The error is the system call's.
Result<Userfaultfd> open_userfaultfd();

/// UFFDIO_API, once for each descriptor: all that the kernel has. EINVAL where it lacks one of `features`.
Result<std::uint64_t> agree_on_features(const UniqueFd& userfaultfd, std::uint64_t features);

/// For tests: from now on this process' kernel has none of these, like an older one.
void hide_userfaultfd_features(std::uint64_t features);

}  // namespace snapvm
