// SPDX-License-Identifier: Apache-2.0
// Tells what an image file is, for `snapvm disk info [--json]`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "devices/disk/qcow2/header.h"
#include "vmm/base/error.h"

namespace snapvm::disk {

/// What image_info() finds.
struct ImageInfo {
    std::string path = {};    ///< as given
    std::string format = {};  ///< "raw" or "qcow2"
    bool device = false;
    std::uint64_t size = 0;        ///< of the guest's disk, in bytes
    std::uint64_t file_bytes = 0;  ///< from the start to the end of the file or device
    std::uint64_t host_bytes = 0;  ///< that it takes on the host: holes do not count
    std::optional<qcow2::Header> header = {};  ///< of qcow2
};

/// Looks into an image, which may be in use, without changing it. `format` is "raw" or "qcow2"; if
/// it is empty, the contents tell. That is for people to read: a guest can write the begin of a
/// qcow2 image into its raw disk, so nothing is opened by what this function recognises. Fails with
/// system if the file cannot be read, with invalid if it is no image of the format, and with
/// unsupported for formats and features that snapvm does not have.
Result<ImageInfo> image_info(const std::string& path, std::string_view format = {});

/// Returns the text of `snapvm disk info` without --json.
[[nodiscard]] std::string to_text(const ImageInfo& info);
/// Returns one line of JSON.
[[nodiscard]] std::string to_json(const ImageInfo& info);

}  // namespace snapvm::disk
