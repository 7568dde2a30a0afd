// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/new_layer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>
#include <utility>

#include "devices/disk/image/chain.h"
#include "vmm/base/absolute_path.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

// Returns a path without the ending that tells the format.
std::string stem_of(const std::string& path) {
    const std::size_t name = path.rfind('/') + 1;
    for (const std::string_view ending : {".qcow2", ".img", ".raw"}) {
        if (path.ends_with(ending) && path.size() - name > ending.size()) {
            return path.substr(0, path.size() - ending.size());
        }
    }
    return path;
}

}  // namespace

Result<ImageFile> ImageFile::of(const DiskFile& file, DiskFormat format) {
    ImageFile image{.id = file.id,
                    .path = file.path,
                    .name = file.name,
                    .device = file.device,
                    .format = format == DiskFormat::qcow2 ? format : DiskFormat::raw};
    if (::fstat(file.fd.get(), &image.identity) != 0) {
        return fail(Error::system("fstat", file.name, errno));
    }
    return image;
}

Result<std::unique_ptr<NewLayer>> NewLayer::make(const ImageFile& image, std::uint64_t size, const std::string& tag,
                                                 const std::string& into) {
    TRY(check_tag(tag));
    std::unique_ptr<NewLayer> layer(new NewLayer);
    layer->mark_.tag = tag;
    layer->image_ = image.identity;
    TRY(layer->choose_places(image, into));
    layer->image_entry_ = TRY(FolderEntry::of(layer->frozen_path_));
    struct stat there{};
    if (layer->swaps_ && layer->image_entry_->find(there)) {
        return fail(ErrorKind::usage, layer->frozen_path_ + " exists, and nothing is overwritten",
                    "give another tag, or put the overlay elsewhere: --into FILE");
    }
    qcow2::CreateOptions options;
    options.size = size;
    options.backing_file = name_in_image(layer->active_path_, layer->frozen_path_);
    options.backing_format = name_of(image.format);
    const std::string made = layer->swaps_ ? hidden_name(layer->frozen_path_) : layer->active_path_;
    layer->file_ = TRY(OverlayFile::make(made, options, /*left_over=*/layer->swaps_));
    layer->overlay_ = TRY(layer->file_->open(image.id, layer->active_path_));
    return layer;
}

Status NewLayer::choose_places(const ImageFile& image, const std::string& into) {
    const std::string path = TRY(canonical_path(image.path));  // the files are in its folder
    if (!image.device && !TRY(FolderEntry::of(path)).is(image.identity)) {
        return fail(ErrorKind::busy, path + " is not the disk's image any more", "put the image back to where it was");
    }
    swaps_ = image.format == DiskFormat::qcow2 && !image.device && into.empty();
    if (image.device && into.empty()) {
        return fail(ErrorKind::usage, image.name + " is a device, and a file beside it is no place for an overlay",
                    "say where the disk continues: --into FILE, or --into DEVICE");
    }
    if (swaps_) {
        frozen_path_ = stem_of(path) + "." + mark_.tag + ".qcow2";
        active_path_ = path;
    } else {
        frozen_path_ = path;
        active_path_ = into.empty() ? stem_of(path) + ".overlay.qcow2" : TRY(absolute_path(into));
    }
    mark_.active = name_in_image(frozen_path_, active_path_);
    return {};
}

Status NewLayer::put_names() {
    if (!swaps_) {
        return {};
    }
    const FolderEntry active = TRY(FolderEntry::of(active_path_));
    if (::linkat(active.folder(), active.name().c_str(), image_entry_->folder(), image_entry_->name().c_str(), 0) !=
        0) {
        return fail(Error::system("link", frozen_path_, errno, "put the overlay elsewhere: --into FILE"));
    }
    linked_ = true;
    if (!image_entry_->is(image_)) {
        if (const auto held = image_entry_->hold()) {
            (void)image_entry_->remove_if(*held);  // the link that was just made, to another file
        }
        return fail(ErrorKind::busy, active_path_ + " is not the disk's image any more",
                    "put the image back to where it was");
    }
    // The image has a name at each instant, whatever order the file system writes names in.
    TRY(synchronise_folder(*image_entry_, frozen_path_));
    return file_->replace(active, image_);
}

// What is not the image, or not the overlay, is not touched.
void NewLayer::take_back() {
    kept_ = true;
    const auto active = FolderEntry::of(active_path_);
    if (linked_ && active && image_entry_->is(image_)) {
        if (active->is(image_)) {
            image_entry_->remove();
        } else if (file_->has_name(*active)) {
            (void)::renameat(image_entry_->folder(), image_entry_->name().c_str(), active->folder(),
                             active->name().c_str());
            (void)synchronise_folder(*active, active_path_);
        }
    }
    file_->remove();
}

NewLayer::~NewLayer() {
    if (!kept_ && file_) {
        take_back();
    }
}

}  // namespace snapvm::disk
