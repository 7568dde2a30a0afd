// SPDX-License-Identifier: Apache-2.0
// Opens a disk by its format.
#include "devices/disk/disk.h"
#include "devices/disk/disk_file.h"
#include "devices/disk/image/chain.h"
#include "devices/disk/image/ephemeral.h"
#include "devices/disk/image/image_disk.h"
#include "devices/disk/raw.h"
#include "vmm/base/try.h"

namespace snapvm {

Result<std::unique_ptr<Disk>> open_disk(const std::string& id, const std::string& path, DiskOptions options) {
    if (options.ephemeral != Ephemeral::off || options.format == DiskFormat::qcow2) {
        disk::Chain chain = TRY(options.ephemeral != Ephemeral::off ? disk::open_ephemeral(id, path, options)
                                                                    : disk::open_chain(id, path, options));
        return std::make_unique<disk::ImageDisk>(std::move(chain.loop), std::move(chain.top), chain.block_size);
    }
    DiskFile file = TRY(DiskFile::open(id, path, options));
    return std::make_unique<RawDisk>(std::move(file), std::move(options));
}

}  // namespace snapvm
