// SPDX-License-Identifier: Apache-2.0
// `PATH[@OFFSET]`: where a snapshot area is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

/// A file or block device, and the byte in it at which the area starts (a multiple of 4 KiB).
struct AreaPath {
    std::string path;
    std::uint64_t offset = 0;

    /// Takes what follows the last '@' as the offset (with K, M, G, T) when it starts with a digit; otherwise the '@' is part of the
    /// file's name. A name that itself ends in @DIGITS is written with @0 behind it. ErrorKind::usage for a bad offset or empty path.
    static Result<AreaPath> parse(std::string_view text);
    [[nodiscard]] std::string text() const;
    friend bool operator==(const AreaPath&, const AreaPath&) = default;
};

}  // namespace snapvm
