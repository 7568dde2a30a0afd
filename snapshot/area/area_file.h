// SPDX-License-Identifier: Apache-2.0
// The file or block device of an area, opened through one inode under whichever name it was given.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "snapshot/area/area_path.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/opener.h"

namespace snapvm {

/// An opened file or device. The functions take offsets from the start of the area.
struct AreaFile {
    UniqueFd fd;
    /// The descriptor that takes the locks if `fd` does not (see lock_descriptor); usually invalid.
    UniqueFd lock_fd;
    std::string name;         ///< the area as the user wrote it, for messages
    std::string opened_path;  ///< the path that was opened; for a device its canonical node
    std::uint64_t base = 0;   ///< offset of the area in the file, in bytes
    std::uint64_t end = 0;    ///< size of the file or device, in bytes
    bool device = false;

    /// Opens the file or device; `flags` are those of open(2). A block device is found by its
    /// number: it is opened through the kernel's own node (/dev/<DEVNAME of sysfs>). OFD locks
    /// belong to an inode, so only then do they conflict if two programs were given different nodes
    /// of one device. If that node cannot be opened, as with a container's own /dev, the given node
    /// is opened, and a lock file in /dev/shm, named after major and minor number, takes the locks.
    /// Fails with busy if the device is in use, and with invalid for everything that is neither a
    /// file nor a block device.
    static Result<AreaFile> open(const AreaPath& area, int flags);
    /// Opens the place of a new snapshot for reading and writing. If there is no file, makes one
    /// with mode 0600, and `created` is its name. An existing file must be this user's, and its
    /// mode must give no right to others: a snapshot holds the guest's memory, and another user may
    /// have made the file beforehand to read it. Fails with usage otherwise, and like open().
    static Result<AreaFile> open_or_create(const AreaPath& area, std::optional<FolderEntry>& created);

    [[nodiscard]] int lock_descriptor() const { return lock_fd.valid() ? lock_fd.get() : fd.get(); }
    /// Returns the number of bytes from the start of the area to the end of the file.
    [[nodiscard]] std::uint64_t room() const { return end > base ? end - base : 0; }
    /// Gives back the lock (pins.h) on [offset, offset + size) of the area.
    Status unlock(std::uint64_t offset, std::uint64_t size) const;
    /// Fills `out`. Fails with invalid if the file ends before that.
    Status read(std::span<std::byte> out, std::uint64_t offset) const;
};

}  // namespace snapvm
