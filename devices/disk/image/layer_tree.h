// SPDX-License-Identifier: Apache-2.0
// The images that belong together: those behind an image, and those that stand on one of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "devices/config/device_config.h"
#include "vmm/base/error.h"

namespace snapvm::disk {

/// An image of a tree.
struct LayerNode {
    std::string path;
    DiskFormat format = DiskFormat::qcow2;
    std::string tag = {};     ///< of a frozen layer's mark; empty: it has none
    std::string active = {};  ///< the image that continued it, by its mark
    std::string behind = {};  ///< the image that it stands on; empty: none
    std::size_t depth = 0;  ///< how many images are behind it
    std::uint64_t size = 0;        ///< of the disk, in bytes
    std::uint64_t host_bytes = 0;  ///< that the file takes on the host
    bool asked_for = false;        ///< the image that layer_tree() was given
    bool in_chain = false;         ///< that one, or behind it
};

/// Returns the images behind the one at `path`, and those in the folders of all of them that name
/// one of them, each behind the one that it stands on. Looks at headers only, and changes and locks
/// nothing, so images may be in use. Files that are no images, or that nothing can be read of, are
/// left out. Of a device that an image names nothing is looked at. Fails as image_behind() does,
/// with not_found, invalid and system.
Result<std::vector<LayerNode>> layer_tree(const std::string& path, DiskFormat format);

/// Returns the layer with this tag of the image that the tree was asked for: one that it stands on,
/// or that it has continued once. Fails with not_found, which names the tags that there are.
Result<LayerNode> find_layer(const std::vector<LayerNode>& tree, const std::string& tag);

/// Returns the text of `snapvm disk list`, one line a node, and its JSON.
[[nodiscard]] std::string to_text(const std::vector<LayerNode>& tree);
[[nodiscard]] std::string to_json(const std::vector<LayerNode>& tree);

}  // namespace snapvm::disk
