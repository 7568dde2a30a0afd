// SPDX-License-Identifier: Apache-2.0
// Layers of an image that no machine uses.
#pragma once

#include <string>

#include "devices/config/device_config.h"
#include "vmm/base/error.h"

namespace snapvm::disk {

/// Where the files of a layer are.
struct LayerPlaces {
    std::string frozen;  ///< the layer
    std::string active;  ///< the image that continues it
};

/// Takes a layer (new_layer.h) of the image at `path`. Fails as open_disk(), NewLayer and
/// Disk::continue_in_overlay() do.
Result<LayerPlaces> take_layer(const std::string& path, DiskFormat format, const std::string& tag,
                               const std::string& into);

/// Puts the active image at `path` back to the layer with this tag: an empty overlay above the
/// layer takes its place. What was written to the image is lost. The step is atomic. Fails with
/// not_found if there is no such layer, with usage if the image is none that stands on others, and
/// as open_disk() does.
Result<LayerPlaces> revert_to_layer(const std::string& path, const std::string& tag);

}  // namespace snapvm::disk
