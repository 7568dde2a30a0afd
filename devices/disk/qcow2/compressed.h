// SPDX-License-Identifier: Apache-2.0
// Compressed clusters. Source: QEMU, docs/interop/qcow2.rst, "Compressed Clusters Descriptor".
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "devices/disk/qcow2/header.h"
#include "vmm/base/error.h"

namespace snapvm::disk::qcow2 {

/// Expands `bytes` into exactly one cluster. What follows the compressed data is ignored. Fails
/// with invalid if it gives less or more, or is damaged; `name` names the image.
Status expand(Compression compression, std::span<const std::byte> bytes, std::span<std::byte> cluster,
              const std::string& name);

}  // namespace snapvm::disk::qcow2
