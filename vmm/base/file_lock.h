// SPDX-License-Identifier: Apache-2.0
// Locks that keep two programs, or two machines of one program, from using the same file or disk.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// Takes an OFD lock (fcntl_locking(2)) on [offset, offset + size) of the file, without waiting.
/// Size 0 means up to the end of the file, wherever that is later. Fails with busy, with `who` in
/// the message, if another open file description holds a conflicting lock. `name` names the file in
/// messages.
Status lock_range(int fd, bool exclusive, std::uint64_t offset, std::uint64_t size, const std::string& name,
                  std::string_view who, std::string_view advice = "stop it first, or use another area");

/// Fails as lock_range() would, and takes no lock.
Status test_range(int fd, bool exclusive, std::uint64_t offset, std::uint64_t size, const std::string& name,
                  std::string_view who, std::string_view advice);

/// Releases the lock while the descriptor stays open.
Status unlock_range(int fd, std::uint64_t offset, std::uint64_t size, const std::string& name);

/// Returns the kernel's name of a block device ("/dev/loop0") from /sys/dev/block, or an empty
/// string if it is unknown. A lock belongs to an inode, and a device can have several nodes: two
/// programs exclude each other only if both lock the same node, so both lock this one.
[[nodiscard]] std::string canonical_device_node(std::uint64_t device_number);

/// Opens the file /dev/shm/snapvm-UID/block-MAJOR:MINOR.lock; creates file and folder if they are
/// absent. It takes the locks if the device's own node cannot be opened, as in a container that has
/// its own /dev. Only this user can lock it (own_folder.h). So other users cannot keep the device
/// from its machines, and machines of different users do not exclude each other by it.
Result<UniqueFd> open_lock_file(std::uint64_t device_number);

/// Returns the size of a block device in bytes (BLKGETSIZE64).
Result<std::uint64_t> device_size(int fd, std::string_view name);

}  // namespace snapvm
