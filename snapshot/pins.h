// SPDX-License-Identifier: Apache-2.0
// Who stands in a writer's way: the machines that map a snapshot, by name where it is known.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/area_file.h"
#include "vmm/base/error.h"

namespace snapvm {

/// The name of the machine that a process runs; empty where that is not known.
using MachineNames = std::function<std::string(int pid)>;

/// Processes that hold a read lock within [offset, offset + size) of the file behind `fd`, ascending. OFD locks have no owner that could be
/// asked for (F_OFD_GETLK says -1), but /proc/PID/fdinfo lists those of each descriptor (Documentation/filesystems/proc.rst). Another
/// user's processes are not seen.
[[nodiscard]] std::vector<int> pinning_processes(int fd, std::uint64_t offset, std::uint64_t size);

/// Takes a lock as lock_range() does. Where it is busy and no process that can be seen has the lock, a writer was killed and what it had
/// given to the disk is under way (DECISIONS.md: locks follow the writes): waits for that, up to a second.
Status lock_when_dead_writers_are_done(int fd, const AreaFile& file, bool exclusive, std::uint64_t offset, std::uint64_t size,
                                       std::string_view who);

/// Takes the write lock on [offset, offset + size) of the area on `fd`, a descriptor of its file. Where that is busy, the message says
/// `who` is in the way, and which machines where that can be seen. Waits as the function above.
Status lock_unpinned(int fd, const AreaFile& file, std::uint64_t offset, std::uint64_t size, std::string_view who,
                     const MachineNames& names);

}  // namespace snapvm
