// SPDX-License-Identifier: Apache-2.0
// Locks that keep two programs, or two machines of one, off the same file or disk.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// Takes an OFD lock (fcntl_locking(2)) on [offset, offset + size) of the file without waiting; size 0 is up to its end, wherever that is.
/// ErrorKind::busy with `who` in the message when somebody else's conflicts. `name` is for messages.
Status lock_range(int fd, bool exclusive, std::uint64_t offset, std::uint64_t size, const std::string& name, std::string_view who,
                  std::string_view advice = "stop it first, or use another area");

/// Gives it back before the descriptor is closed.
Status unlock_range(int fd, std::uint64_t offset, std::uint64_t size, const std::string& name);

/// The kernel's name of a block device ("/dev/loop0"), from /sys/dev/block; empty when unknown. Locks belong to an inode: they conflict
/// whichever node two programs were given only if both open this one (traps.md: locks through a second device node).
[[nodiscard]] std::string canonical_device_node(std::uint64_t device_number);

/// A file named after the device in /dev/shm, which takes the locks where that node cannot be opened (a container's own /dev).
Result<UniqueFd> open_lock_file(std::uint64_t device_number);

/// BLKGETSIZE64.
Result<std::uint64_t> device_size(int fd, std::string_view name);

}  // namespace snapvm
