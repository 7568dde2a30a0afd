// SPDX-License-Identifier: Apache-2.0
// An empty qcow2 image that was just made above another image, and its name in its folder.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>

#include "devices/disk/disk_file.h"
#include "devices/disk/image/overlay.h"
#include "devices/disk/qcow2/create.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/base/opener.h"

namespace snapvm::disk {

class OverlayFile {
public:
    /// Makes an image at `path`, which does not exist, or is a block device that begins with zeros.
    /// Image and name are durable. Fails with usage if something is there, and with system. With
    /// `left_over`, what a killed process has left there is removed first: nobody uses the name but
    /// for this.
    static Result<OverlayFile> make(const std::string& path, const qcow2::CreateOptions& options,
                                    bool left_over = false);

    /// Opens and locks it. `id` and `shown` are the disk and the path for messages.
    [[nodiscard]] Result<Overlay> open(const std::string& id, const std::string& shown) const;
    /// Gives it the name of another file in its folder, which thereby loses it, durably. `target`
    /// is the one that has the name.
    Status replace(const FolderEntry& target, const struct stat& file);
    /// Returns whether a name is that of this image.
    [[nodiscard]] bool has_name(const FolderEntry& entry) const;
    /// Removes it, if it still has the name that it was made with. A device stays as it is.
    void remove() const;

private:
    OverlayFile(FolderEntry entry, std::string path) : entry_(std::move(entry)), path_(std::move(path)) {}
    Result<UniqueFd> make_file();

    FolderEntry entry_;
    std::string path_;
    UniqueFd held_;  ///< O_PATH, so that no other file is taken for it; invalid for a device
};

/// Returns the name that an image has until it takes the place of the one at `path`.
[[nodiscard]] std::string hidden_name(const std::string& path);

/// Makes the names in an entry's folder durable.
Status synchronise_folder(const FolderEntry& entry, const std::string& path);

}  // namespace snapvm::disk
