// SPDX-License-Identifier: Apache-2.0
// Finds the processes that keep a writer out of an area: machines that map a snapshot in it, by
// name if that is known.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/area/area_file.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Returns the name of the machine that a process runs; empty if it is not known.
using MachineNames = std::function<std::string(int pid)>;

/// Returns the processes, in ascending order, that hold a read lock which overlaps [offset, offset
/// + size) of the file behind `fd`. F_OFD_GETLK does not name the owner of an OFD lock (it returns
/// -1), but /proc/PID/fdinfo lists the locks of each descriptor
/// (Documentation/filesystems/proc.rst). Another user's processes are not found.
[[nodiscard]] std::vector<int> pinning_processes(int fd, std::uint64_t offset, std::uint64_t size);

/// Takes a lock as lock_range() does. If the range is locked and no visible process has the lock,
/// it belongs to a killed writer whose last writes are still in flight (DECISIONS.md, "Locks follow
/// the writes"): waits for their end, one second at most.
Status lock_when_dead_writers_are_done(int fd, const AreaFile& file, bool exclusive, std::uint64_t offset,
                                       std::uint64_t size, std::string_view who);

/// Takes the write lock on [offset, offset + size) of the area. `fd` is a descriptor of its file.
/// Fails with busy if the range stays locked; the message contains `who` and names the machines
/// that are visible. Waits as lock_when_dead_writers_are_done() does.
Status lock_unpinned(int fd, const AreaFile& file, std::uint64_t offset, std::uint64_t size, std::string_view who,
                     const MachineNames& names);

}  // namespace snapvm
