// SPDX-License-Identifier: Apache-2.0
// Compares the reference counts of an image with what refers to its clusters, and repairs them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "devices/disk/io/disk_io.h"
#include "devices/disk/qcow2/header.h"

namespace snapvm::disk::qcow2 {

struct CheckReport {
    std::uint64_t errors = 0;  ///< what damages data, or may do so at the next write
    std::uint64_t leaks = 0;   ///< clusters that nothing uses and that are not free
    std::uint64_t repaired_errors = 0;
    std::uint64_t repaired_leaks = 0;
    std::uint64_t clusters = 0;    ///< of the guest's disk
    std::uint64_t allocated = 0;   ///< of them, in this image
    std::uint64_t compressed = 0;  ///< of the allocated ones
    std::uint64_t fragmented = 0;  ///< of the allocated ones: do not follow the one before
    std::uint64_t end = 0;         ///< of the last cluster in use, in the file
    std::vector<std::string> lines;  ///< what is wrong; the first ones
    static constexpr std::size_t kMaxLines = 20;
};

/// Checks an image that nothing else uses. Its memory is 16 bytes for each cluster in use, at most
/// 1 GiB. With `repair`, lowers the counts of leaked clusters, raises those that are too low, makes
/// refcount blocks that are missing, and corrects the flags that say that a count is 1. Clears the
/// dirty bit if all counts are right then, and the corrupt bit if nothing is wrong. The report is
/// about what is left. Fails with system if a call does, and with unsupported if the image is too
/// large.
Task<Result<CheckReport>> check_image(DiskIo& file, HeaderStore& header, bool repair);

}  // namespace snapvm::disk::qcow2
