// SPDX-License-Identifier: Apache-2.0
// The file or block device behind an area: opened through one inode whoever asks, sized, and locked.
#pragma once

#include <cstdint>
#include <string>

#include "snapshot/area_path.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/base/file_lock.h"

namespace snapvm {

/// An opened file or device. Offsets given to its functions are the area's own.
struct AreaFile {
    UniqueFd fd;
    /// Where locks are taken when not on `fd` itself (see lock_descriptor); usually invalid.
    UniqueFd lock_fd;
    std::string name;         ///< for messages: the area as the user wrote it
    std::string opened_path;  ///< what was opened: for a device its canonical node
    std::uint64_t base = 0;   ///< the area's start in the file
    std::uint64_t end = 0;    ///< size of the file or device
    bool device = false;

    /// `flags` as of open(2). A block device is found by its number, not its name: it is opened through the kernel's own node
    /// (/dev/<DEVNAME of sysfs>), so that OFD locks, which belong to an inode, conflict whichever node two programs were given.
    /// Where that node cannot be opened (a container's own /dev), the given one is, and a lock file named after major and minor
    /// number in /dev/shm takes the locks. Directories and everything else that is neither file nor disk are refused.
    static Result<AreaFile> open(const AreaPath& area, int flags);

    [[nodiscard]] int lock_descriptor() const { return lock_fd.valid() ? lock_fd.get() : fd.get(); }
    /// Bytes from the area's start to the end of the file.
    [[nodiscard]] std::uint64_t room() const { return end > base ? end - base : 0; }
    /// Gives back a lock (pins.h) on [offset, offset + size) of the area.
    Status unlock(std::uint64_t offset, std::uint64_t size) const;
    /// Reads exactly, or says that the area is truncated.
    Status read(std::span<std::byte> out, std::uint64_t offset) const;
};

}  // namespace snapvm
