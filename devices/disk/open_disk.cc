// SPDX-License-Identifier: Apache-2.0
// Opens a disk by its format.
#include <limits>

#include "devices/disk/disk.h"
#include "devices/disk/disk_file.h"
#include "devices/disk/image/chain.h"
#include "devices/disk/image/ephemeral.h"
#include "devices/disk/image/image_disk.h"
#include "devices/disk/image/overlay.h"
#include "devices/disk/layer_mark.h"
#include "devices/disk/raw.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {

Status check_larger(const Disk& disk, std::uint64_t bytes) {
    constexpr std::uint64_t kSector = 512;
    constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();  // of a file
    if (bytes == 0) {
        return fail(ErrorKind::usage, disk.name() + " needs a new size: it is no block device, which has one",
                    "give a multiple of 512, such as 20G");
    }
    if (bytes % kSector != 0 || bytes > kMax) {
        return fail(ErrorKind::usage, disk.name() + " cannot have " + count_text(bytes, "byte"),
                    "give a multiple of 512, such as 20G");
    }
    if (bytes < disk.size()) {
        return fail(ErrorKind::usage,
                    disk.name() + " has " + size_text(disk.size()) + ", and a running machine's disk cannot shrink",
                    "stop the machine first, and resize the image");
    }
    return {};
}

Result<std::unique_ptr<Disk>> open_disk(const std::string& id, const std::string& path, DiskOptions options) {
    if (options.ephemeral != Ephemeral::off || options.format == DiskFormat::qcow2) {
        disk::Chain chain = TRY(options.ephemeral != Ephemeral::off ? disk::open_ephemeral(id, path, options)
                                                                    : disk::open_chain(id, path, options));
        return std::make_unique<disk::ImageDisk>(std::move(chain.loop), std::move(chain.top), chain.block_size);
    }
    DiskFile file = TRY(DiskFile::open(id, path, options));
    return std::make_unique<RawDisk>(std::move(file), std::move(options));
}

namespace {

std::unexpected<Error> no_layers(const Disk& disk) {
    return fail(ErrorKind::unsupported, disk.name() + " is no file, so no layer of it can be taken");
}

}  // namespace

Result<int> Disk::prepare_overlay(disk::Overlay /*overlay*/) { return no_layers(*this); }
Result<std::unique_ptr<Disk>> Disk::freeze(const std::string& /*path*/) { return no_layers(*this); }

Result<std::unique_ptr<Disk>> Disk::continue_in_overlay(const disk::LayerMark& mark, const std::string& path) {
    if (file() == nullptr) {
        return no_layers(*this);
    }
    const int fd = file()->fd.get();
    Status marked = disk::write_mark(fd, path, mark, name());
    Result<std::unique_ptr<Disk>> next = marked ? freeze(path) : fail(std::move(marked).error());
    if (!next) {
        (void)disk::write_mark(fd, path, std::nullopt, name());  // also one that is only not durable
    }
    return next;
}

}  // namespace snapvm
