// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/image.h"

#include "vmm/base/size_text.h"

namespace snapvm::disk {

Status check_new_size(const Image& image, std::uint64_t size) {
    constexpr std::uint64_t kSector = 512;
    if (image.read_only()) {
        return fail(ErrorKind::usage, image.name() + " is read-only, and keeps its size");
    }
    if (size == 0 || size % kSector != 0) {
        return fail(ErrorKind::usage, image.name() + ": a disk cannot have " + count_text(size, "byte"),
                    "give a multiple of 512, such as 20G");
    }
    return {};
}

}  // namespace snapvm::disk
