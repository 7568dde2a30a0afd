// SPDX-License-Identifier: Apache-2.0
// Which file an area is in, whatever it is called.
#pragma once

#include <cstdint>
#include <string>

#include "snapshot/area/area_file.h"
#include "vmm/base/error.h"

namespace snapvm {

/// The file of an area, by its numbers, and the area's place in it. A copy of an area has another
/// identity; one that was renamed has the same.
struct AreaIdentity {
    bool device = false;       ///< a block device: `number` is its own (st_rdev), and `volume` is 0
    std::uint64_t volume = 0;  ///< the file system's number (st_dev)
    std::uint64_t number = 0;  ///< the inode's number
    std::uint64_t offset = 0;  ///< bytes from the start of the file
    bool own = false;          ///< a block device, or a file that this user owns and others cannot write
    friend bool operator==(const AreaIdentity&, const AreaIdentity&) = default;

    /// Of the file behind a descriptor; `name` is for messages.
    static Result<AreaIdentity> of(int fd, std::uint64_t offset, const std::string& name);
    static Result<AreaIdentity> of(const AreaFile& file) { return of(file.fd.get(), file.base, file.name); }
};

}  // namespace snapvm
