// SPDX-License-Identifier: Apache-2.0
// A layer is taken of a disk: the image that takes the writes becomes a frozen layer, and the disk
// continues in an empty overlay above it.
//
// A qcow2 image keeps the path that its user knows: the frozen layer becomes NAME.TAG.qcow2 beside
// it, and the overlay takes its place. A raw file or a block device stays where it is, and so does
// an image whose overlay is put elsewhere; the disk then has another path.
//
// The order of the steps is safe against a crash at any point:
//   1. make()       an empty overlay is there, under a name that nobody uses
//   2. put_names()  the files have their names: the overlay above the image reads as the image,
//                   which may be written still
//   3. the image has its mark (layer_mark.h): no other machine writes it
//   4. the image is frozen, and the disk continues in the overlay
// Before step 4 take_back() undoes all.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "devices/config/device_config.h"
#include "devices/disk/disk_file.h"
#include "devices/disk/image/overlay_file.h"
#include "devices/disk/layer_mark.h"
#include "vmm/base/error.h"
#include "vmm/base/opener.h"

namespace snapvm::disk {

/// Which file an image has.
struct ImageFile {
    std::string id;    ///< of the disk
    std::string path;  ///< as it was opened
    std::string name;  ///< for messages
    bool device = false;
    DiskFormat format = DiskFormat::raw;
    struct stat identity{};

    static Result<ImageFile> of(const DiskFile& file, DiskFormat format);
};

/// The names of a disk's files while a layer is taken of it. One thread at a time.
class NewLayer {
public:
    /// Makes the overlay. `image` is the one that takes the writes, `size` the disk's size. `into`
    /// is the overlay's path, or empty. Fails with usage if the tag cannot be one or a file is in
    /// the way, and with system.
    static Result<std::unique_ptr<NewLayer>> make(const ImageFile& image, std::uint64_t size, const std::string& tag,
                                                  const std::string& into);
    NewLayer(const NewLayer&) = delete;
    NewLayer& operator=(const NewLayer&) = delete;
    /// Calls take_back(), unless keep() was called.
    ~NewLayer();

    /// Returns the overlay, once.
    [[nodiscard]] Overlay take_overlay() { return std::move(overlay_); }
    /// Gives the files their names, durably. Fails with busy if another file has the image's name
    /// by now.
    Status put_names();
    /// Says that the layer was taken.
    void keep() { kept_ = true; }
    /// Gives the image its name back, and removes the overlay.
    void take_back();

    /// Returns the mark that the image gets.
    [[nodiscard]] const LayerMark& mark() const { return mark_; }
    [[nodiscard]] const std::string& frozen_path() const { return frozen_path_; }
    [[nodiscard]] const std::string& active_path() const { return active_path_; }

private:
    NewLayer() = default;
    Status choose_places(const ImageFile& image, const std::string& into);

    bool swaps_ = false;  ///< the overlay takes the image's name
    std::optional<OverlayFile> file_;
    std::optional<FolderEntry> image_entry_;  ///< of the frozen layer
    struct stat image_{};                     ///< the image's file, which its disk has open
    Overlay overlay_;
    LayerMark mark_;
    std::string frozen_path_;
    std::string active_path_;
    bool linked_ = false;  ///< the image has its new name, beside the one that it had
    bool kept_ = false;
};

}  // namespace snapvm::disk
