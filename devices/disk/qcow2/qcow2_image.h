// SPDX-License-Identifier: Apache-2.0
// A qcow2 image: reads through its chain, writes with allocation, keeps data and tables in an order
// that a power loss cannot break.
#pragma once

#include <memory>
#include <string>

#include "devices/disk/image/image.h"
#include "devices/disk/qcow2/header.h"

namespace snapvm::disk::qcow2 {

struct OpenOptions {
    bool read_only = false;
    /// Of L2 tables and refcount blocks in memory, together.
    std::uint64_t metadata_bytes = 16ULL << 20;
    /// Freed clusters give their space back to the host (holes).
    bool discard = true;
    /// Image::exchange_backing() brings the image that the header names. Nothing may be read
    /// before.
    bool backing_follows = false;
};

/// Opens an image in a file that DiskFile has opened and locked. `header` is what read_header() has
/// read from it. `backing` is the image behind it, or null; it must be there if the header names
/// one. Checks that the tables are within the file. A
/// dirty image is repaired (check.h) if it may be written, and refused otherwise; a corrupt one may
/// only be read. Unknown autoclear features are cleared before the first write. Fails with invalid,
/// unsupported or system.
Task<Result<std::unique_ptr<Image>>> open_image(std::unique_ptr<DiskIo> file, Header header,
                                                std::unique_ptr<Image> backing, OpenOptions options);

}  // namespace snapvm::disk::qcow2
