// SPDX-License-Identifier: Apache-2.0
// Shared by the commands on disk images: how the command line names an image, and the parts of
// `snapvm disk` that have files of their own.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/cli/commands.h"

namespace snapvm::cli {

/// An image as the command line gives it.
struct ImageArgument {
    std::string path;
    std::string format;  ///< "raw" or "qcow2"; empty if it is not said
};

/// Parses "F[,format=raw|qcow2]". A comma in F needs no sign before it. Fails with usage for
/// another format.
Result<ImageArgument> parse_image(const std::string& text);

/// Returns the error of an image that cannot be opened, with advice for a command line: that of
/// DiskFile::open() is for a disk of a machine.
[[nodiscard]] Error image_error(Error error);

// disk_check.cc, disk_layers.cc, disk_resize.cc
void add_disk_check(Command disk, Globals& globals);
void add_disk_layers(Command disk, Globals& globals);
void add_disk_resize(Command disk, Globals& globals);

}  // namespace snapvm::cli
