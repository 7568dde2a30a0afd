// SPDX-License-Identifier: Apache-2.0
// Descriptors that report page faults of this process, including those that KVM takes for a guest.
// Source: ioctl_userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// Why a thread waits in a page fault. The values are the bits of UFFDIO_REGISTER_MODE_*.
enum class FaultKind : std::uint8_t {
    missing = 1,        ///< the page is not populated
    write_protect = 2,  ///< a write to a protected page
    minor = 4,          ///< the page is in its memfd, and not mapped here
};

/// A set of FaultKinds.
class FaultKinds {
public:
    constexpr FaultKinds() = default;
    constexpr FaultKinds(FaultKind kind) : bits_(static_cast<std::uint8_t>(kind)) {}  // NOLINT(*-explicit-*)

    [[nodiscard]] constexpr bool has(FaultKind kind) const { return (bits_ & static_cast<std::uint8_t>(kind)) != 0; }
    [[nodiscard]] constexpr bool empty() const { return bits_ == 0; }
    [[nodiscard]] constexpr std::uint8_t bits() const { return bits_; }
    friend constexpr FaultKinds operator|(FaultKinds a, FaultKinds b) {
        a.bits_ |= b.bits_;
        return a;
    }
    friend constexpr bool operator==(FaultKinds, FaultKinds) = default;

private:
    std::uint8_t bits_ = 0;
};

/// UFFD_FEATURE_WP_UNPOPULATED, since Linux 6.4. Debian 12's headers do not have it.
inline constexpr std::uint64_t kUffdProtectsUnpopulated = 1ULL << 13;

/// A userfaultfd that also reports faults taken in the kernel, as KVM's are. That needs a
/// capability or a sysctl for the system call, or the right to open /dev/userfaultfd.
struct Userfaultfd {
    UniqueFd fd;
    std::string_view way;  ///< "system call" or "/dev/userfaultfd"
};

/// Opens a userfaultfd; `agree_on_features` must follow. If both ways fail, the error is that of
/// the system call.
Result<Userfaultfd> open_userfaultfd();

/// Calls UFFDIO_API, once for each descriptor, and returns all features of the kernel. Fails with
/// EINVAL if the kernel lacks one of `features`.
Result<std::uint64_t> agree_on_features(const UniqueFd& userfaultfd, std::uint64_t features);

/// The calls on a range of whole pages. `object` names the range in errors. Any thread may make
/// them.
///
/// Has the kernel report faults of `kinds`, and of no other kind: the call replaces what the range
/// was registered with. It takes nothing away from a range that is registered with more. Fails with
/// system: EINVAL if the memory is of a type that cannot be registered, EBUSY if another
/// userfaultfd has the range.
Status register_faults(const UniqueFd& userfaultfd, std::span<std::byte> range, FaultKinds kinds,
                       std::string_view object);
/// Ends the reports, and all protection. Threads that wait go on waiting until `wake_faults`.
Status unregister_faults(const UniqueFd& userfaultfd, std::span<std::byte> range, std::string_view object);
/// Has every thread that waits in the range try its access again.
Status wake_faults(const UniqueFd& userfaultfd, std::span<std::byte> range, std::string_view object);
/// Protects the pages of a range, or ends their protection and wakes the writers.
Status protect_pages(const UniqueFd& userfaultfd, std::span<std::byte> range, bool on, std::string_view object);
/// Populates missing pages with `data` and wakes the threads that wait for them. Leaves pages alone
/// that are populated. With `protect`, which needs a registration for write-protect faults, the new
/// pages are write-protected from the start.
Status copy_pages(const UniqueFd& userfaultfd, std::span<std::byte> range, std::span<const std::byte> data,
                  bool protect, std::string_view object);
/// Maps pages that are in the memfd already, and wakes the threads that wait for them. `protect` as
/// for `copy_pages`, since Linux 6.4.
Status map_present_pages(const UniqueFd& userfaultfd, std::span<std::byte> range, bool protect,
                         std::string_view object);

/// For tests: from now on the process treats these features as missing, as on an older kernel.
void hide_userfaultfd_features(std::uint64_t features);

}  // namespace snapvm
