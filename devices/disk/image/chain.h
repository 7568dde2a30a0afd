// SPDX-License-Identifier: Apache-2.0
// Opens a disk's image and the images behind it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "devices/disk/disk.h"
#include "devices/disk/image/image.h"
#include "devices/disk/io/disk_io.h"
#include "vmm/base/error.h"

namespace snapvm::disk {

/// The most images in a chain.
inline constexpr std::size_t kMaxImages = 200;

/// The opened images of one disk.
struct Chain {
    std::unique_ptr<IoLoop> loop;  ///< executes the calls of all of them, and is destroyed after them
    std::unique_ptr<Image> top;    ///< owns the images behind it
    std::uint32_t block_size = 512;  ///< as Disk::block_size(), of the file that was named
};

/// Opens the image at `path`, whose format `options` states, and those behind it. Each image names
/// the next one and its format in its header; a relative name counts from the folder of the image
/// that has it. No content is looked at to find out a format. Backing images are opened read-only,
/// and locked as by a reader.
///
/// A header is untrusted: a backing file must be a regular file of this user, and a raw one beside
/// the image, unless `options.backing` names it. Fails with usage if it is not, with invalid for a
/// chain that leads back to itself, has more than kMaxImages images or leads to what is no file,
/// with unsupported for another format and for protocols, with not_found if a file is missing, and
/// as DiskFile::open() and qcow2::open_image() do.
Result<Chain> open_chain(const std::string& id, const std::string& path, const DiskOptions& options);

}  // namespace snapvm::disk
