// SPDX-License-Identifier: Apache-2.0
// Opens a disk's image and the images behind it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "devices/disk/disk.h"
#include "devices/disk/image/image.h"
#include "devices/disk/io/disk_io.h"
#include "devices/disk/qcow2/header.h"
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

/// Where an image is, and of which format.
struct ImagePlace {
    std::string path;
    DiskFormat format = DiskFormat::qcow2;
};

/// Returns where the image is that a header names as the one behind it. `path` is that of the image
/// that has the header, `name` names it in messages. Fails with invalid and unsupported as
/// open_chain() does. The header must have one, and is untrusted.
Result<ImagePlace> image_behind(const qcow2::Header& header, const std::string& name, const std::string& path);

/// Returns how the image at `image` names the one behind it: one in the same folder by its name
/// alone, so that the folder can be moved, and any other by its whole path. Both are absolute.
[[nodiscard]] std::string name_in_image(const std::string& image, const std::string& backing);

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
