// SPDX-License-Identifier: Apache-2.0
// The mark of a frozen layer: an image that another one continues, and that must stay as it is.
//
// It is the extended attribute user.snapvm.layer of the file, or, where the file system has none,
// the file NAME.layer beside it. So a copy of the file is an image of its own. A block device has
// no mark: nothing keeps a user from running a machine on it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm::disk {

struct LayerMark {
    std::string tag;     ///< what the user calls the layer
    std::string active;  ///< the image that continues it; a relative path counts from its folder
    bool operator==(const LayerMark&) const = default;
};

/// Fails with usage unless a tag has 1 to 64 letters, digits, dots, dashes and underscores, of
/// which the first is a letter or digit.
Status check_tag(std::string_view tag);

/// Returns the mark of the image at `path`, which has no links, or none. It is untrusted. Fails
/// with invalid if it is malformed, and with system.
Result<std::optional<LayerMark>> read_mark(int fd, const std::string& path, const std::string& name);
/// Writes it durably; none removes it. Fails with system. Does nothing to a device.
Status write_mark(int fd, const std::string& path, const std::optional<LayerMark>& mark, const std::string& name);

/// Fails with usage if an image that is to be written has a mark; the error names the active image.
/// Fails also as read_mark().
Status refuse_frozen(int fd, const std::string& path, const std::string& name);

}  // namespace snapvm::disk
