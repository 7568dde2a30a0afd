// SPDX-License-Identifier: Apache-2.0
// Ephemeral disks: what their guests write is gone when the machine ends.
#pragma once

#include <string>

#include "devices/disk/disk.h"
#include "devices/disk/image/chain.h"
#include "vmm/base/error.h"

namespace snapvm::disk {

/// Opens the image at `path` and those behind it read-only, and puts an overlay in an unnamed file
/// over them, as `options.ephemeral` says, which must not be `off`. A flush of the overlay reaches
/// no disk. Writes that exceed options.ephemeral_max fail with ENOSPC; what a guest discards can be
/// written again. Fails as open_chain() and make_overlay() do, and with system if the file cannot
/// be made.
Result<Chain> open_ephemeral(const std::string& id, const std::string& path, DiskOptions options);

}  // namespace snapvm::disk
