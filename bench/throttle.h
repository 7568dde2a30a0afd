// SPDX-License-Identifier: Apache-2.0
// Makes a disk slow for one process, by a cgroup with a limit on the device's writes. It needs
// root.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>

#include "vmm/base/error.h"

namespace snapvm::bench {

class Throttle {
public:
    /// `target` is a device, or a file (which need not exist yet) on one. The limit applies to the
    /// whole disk. cgroup v1 limits only writes that bypass the page cache.
    static Result<Throttle> on(const std::string& target, std::uint64_t bytes_per_second);
    Throttle(Throttle&& other) noexcept : group_(std::exchange(other.group_, {})) {}
    Throttle& operator=(Throttle&&) = delete;
    /// Removes the cgroup. Every process in it must have ended.
    ~Throttle();

    [[nodiscard]] Status add(pid_t process) const;

private:
    explicit Throttle(std::string group) : group_(std::move(group)) {}
    std::string group_;
};

}  // namespace snapvm::bench
