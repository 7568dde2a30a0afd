// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/unused_image.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "devices/disk/disk.h"
#include "devices/disk/image/chain.h"
#include "devices/disk/image/layer_tree.h"
#include "devices/disk/image/new_layer.h"
#include "devices/disk/image/overlay_file.h"
#include "vmm/base/absolute_path.h"
#include "vmm/base/opener.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

Result<std::unique_ptr<Disk>> open_unused(const std::string& path, DiskFormat format) {
    DiskOptions options;
    options.format = format;
    return open_disk({}, path, std::move(options));
}

}  // namespace

Result<LayerPlaces> take_layer(const std::string& path, DiskFormat format, const std::string& tag,
                               const std::string& into) {
    const std::unique_ptr<Disk> disk = TRY(open_unused(path, format));
    const auto layer = TRY(NewLayer::make(TRY(ImageFile::of(*disk->file(), format)), disk->size(), tag, into));
    TRY(disk->prepare_overlay(layer->take_overlay()));
    TRY(layer->put_names());
    const auto next = TRY(disk->continue_in_overlay(layer->mark(), layer->frozen_path()));
    layer->keep();
    return LayerPlaces{.frozen = layer->frozen_path(), .active = layer->active_path()};
}

Result<LayerPlaces> revert_to_layer(const std::string& path, const std::string& tag) {
    const std::string active = TRY(canonical_path(path));
    const std::vector<LayerNode> tree = TRY(layer_tree(active, DiskFormat::qcow2));
    const LayerNode layer = TRY(find_layer(tree, tag));
    const auto above = std::ranges::find(tree, active, &LayerNode::behind);
    if (above != tree.end()) {
        return fail(ErrorKind::usage, above->path + " stands on " + path + ", which would be gone",
                    "remove that one first, or make an overlay over the layer: snapvm disk create");
    }
    // Held until the end, so that no machine writes what is about to be replaced.
    const std::unique_ptr<Disk> disk = TRY(open_unused(active, DiskFormat::qcow2));
    const ImageFile image = TRY(ImageFile::of(*disk->file(), DiskFormat::qcow2));
    if (image.device) {
        return fail(ErrorKind::unsupported, path + " is a device, and no other image can take its place",
                    "make an overlay elsewhere: snapvm disk create F --backing " + layer.path +
                        ",format=" + std::string(name_of(layer.format)));
    }
    qcow2::CreateOptions options;
    options.size = layer.size;
    options.backing_file = name_in_image(active, layer.path);
    options.backing_format = name_of(layer.format);
    OverlayFile overlay = TRY(OverlayFile::make(hidden_name(active), options, /*left_over=*/true));
    // Opened as a machine opens it: what no machine may read takes no image's place.
    auto opened = open_unused(hidden_name(active), DiskFormat::qcow2);
    Status replaced =
        opened ? overlay.replace(TRY(FolderEntry::of(active)), image.identity) : fail(std::move(opened).error());
    if (!replaced) {
        overlay.remove();
        return fail(std::move(replaced).error());
    }
    return LayerPlaces{.frozen = layer.path, .active = active};
}

}  // namespace snapvm::disk
