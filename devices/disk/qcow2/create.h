// SPDX-License-Identifier: Apache-2.0
// Makes a new qcow2 image, which has no data of its own.
#pragma once

#include <cstdint>
#include <string>

#include "devices/disk/qcow2/header.h"
#include "vmm/base/error.h"

namespace snapvm::disk::qcow2 {

/// What a new image is like. The defaults are those of every image that snapvm makes.
struct CreateOptions {
    std::uint64_t size = 0;  ///< of the guest's disk in bytes, a multiple of 512
    std::uint32_t version = 3;
    /// With subclusters, of 4 KiB then: O_DIRECT takes no less on many disks.
    std::uint32_t cluster_bits = 17;
    bool extended_l2 = true;  ///< a write over a backing image then copies 4 KiB at most
    std::uint32_t refcount_order = 4;
    Compression compression = Compression::zlib;
    std::string backing_file = {};    ///< as the image names it; empty: none
    std::string backing_format = {};  ///< "raw" or "qcow2"; must be given with a backing file
    bool durable = true;              ///< false: for a file that need not survive the process
};

/// Fails with usage if no image can have these options.
Status check_options(const CreateOptions& options);

/// Writes an image into an opened empty file, or over the begin of an opened block device, and
/// makes it durable, unless told otherwise. The caller makes the file's name in its folder durable.
/// The header comes last, so that what is half written is no image. `name` names the file in
/// errors. Fails as check_options(), with usage if the file is not empty or the device too small,
/// and with system.
Status create_image(int fd, const CreateOptions& options, const std::string& name);

}  // namespace snapvm::disk::qcow2
