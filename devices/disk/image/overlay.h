// SPDX-License-Identifier: Apache-2.0
// Overlays: new images, without data of their own, over others.
#pragma once

#include <memory>

#include "devices/disk/disk_file.h"
#include "devices/disk/image/image.h"
#include "devices/disk/io/disk_io.h"
#include "devices/disk/qcow2/create.h"
#include "devices/disk/qcow2/header.h"
#include "vmm/base/error.h"

namespace snapvm::disk {

/// An image that is made and not opened yet.
struct Overlay {
    DiskFile file;
    qcow2::Header header;
};

/// Makes an image in the empty file of `file.fd`, and fills in the file's size. The caller has set
/// what else the file is: its name for messages, its largest size, whether it is transient. Nothing
/// is locked. `options` says the size of the guest's disk, and how the image names the one behind
/// it. Fails as qcow2::create_image() does, and with usage if the tables alone exceed the file's
/// largest size.
Result<Overlay> make_overlay(DiskFile file, const qcow2::CreateOptions& options);

/// Opens an overlay for writing, over `backing`, whose files `loop` has, too. With null,
/// Image::exchange_backing() brings the image that its header names. Fails as qcow2::open_image()
/// does.
Result<std::unique_ptr<Image>> open_overlay(Overlay overlay, std::unique_ptr<Image> backing, IoLoop& loop);

/// Fails with busy if the disk has changed its size since the overlay was made for it.
Status check_overlay(const Image& overlay, const Disk& disk);

}  // namespace snapvm::disk
