// SPDX-License-Identifier: Apache-2.0
// The file or block device that holds a disk: opened, sized and locked.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// What O_DIRECT asks of a call, in bytes.
struct DirectAlignment {
    std::uint32_t memory = 512;
    std::uint32_t offset = 512;  ///< of file offsets and sizes
};

struct DiskFile {
    UniqueFd fd;         ///< through the page cache
    UniqueFd direct_fd;  ///< the same past it; invalid where there is no such way
    UniqueFd lock_fd;    ///< where the lock is when not on `fd` (open_lock_file)
    DirectAlignment alignment;
    std::uint64_t size = 0;  ///< bytes in whole sectors of 512
    std::uint32_t block_size =
        512;  ///< a device's logical block. Of a file 512, whatever file system it is on: what is in it was made for that
    bool device = false;
    std::string name;  ///< for messages

    /// Refuses what is missing, empty, neither a file nor a disk, mounted (to be written), or locked by somebody else. A block device is
    /// found by its number (canonical_device_node), so that the lock holds whichever node others use.
    static Result<DiskFile> open(const std::string& id, const std::string& path, bool read_only, bool direct);
};

}  // namespace snapvm
