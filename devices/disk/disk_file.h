// SPDX-License-Identifier: Apache-2.0
// The file or block device of a disk: opened, sized and locked.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "devices/disk/disk.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm {

/// The alignment that O_DIRECT requires, in bytes.
struct DirectAlignment {
    std::uint32_t memory = 512;
    std::uint32_t offset = 512;  ///< of offsets in the file and of sizes
};

/// An opened disk file.
struct DiskFile {
    UniqueFd fd;         ///< uses the page cache
    UniqueFd direct_fd;  ///< bypasses the page cache; invalid if the file does not allow it
    UniqueFd lock_fd;    ///< has the locks if `fd` has not (open_lock_file)
    DirectAlignment alignment;
    std::uint64_t size = 0;  ///< in bytes, a multiple of 512
    /// The logical block size of a device. For a file it is 512, whatever its file system uses,
    /// because the image was made for that.
    std::uint32_t block_size = 512;
    bool device = false;
    /// The largest size of a file in bytes: what would make it larger fails with ENOSPC.
    std::uint64_t max_size = std::numeric_limits<std::int64_t>::max();
    /// Nothing reads the file when its descriptor is closed, so it need not be durable: flushes do
    /// nothing.
    bool transient = false;
    std::string id;    ///< of the disk
    std::string path;  ///< as it was opened
    std::string name;  ///< for messages: both

    /// Says that the file has another path now.
    void moved_to(const std::string& where) {
        path = where;
        name = id.empty() ? path : "disk " + id + " (" + path + ")";
    }

    /// Opens the file and locks it (image_lock.h), as a reader or as the writer. `id` names it in
    /// messages; without one its path does. Fails if it is missing, empty, neither a file nor a
    /// block device, locked by another program or machine, or, unless `read_only`, mounted or a
    /// frozen layer (layer_mark.h). A block device is found by its number (canonical_device_node),
    /// so that locks conflict whichever node others open. If its format is `unstated`, fails with
    /// invalid for an image that is not raw (image_format.h), and for a file that ends within a
    /// sector. As `raw` it is taken as it is, without such an end.
    static Result<DiskFile> open(const std::string& id, const std::string& path, const DiskOptions& options);

    /// Makes the locks of a writer those of a reader, so that other readers can open the file. No
    /// writer gets it in between. The caller has ended its writes, and makes no more.
    Status share();

    [[nodiscard]] int lock_descriptor() const { return lock_fd.valid() ? lock_fd.get() : fd.get(); }
};

}  // namespace snapvm
