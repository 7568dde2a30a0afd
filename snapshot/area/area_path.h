// SPDX-License-Identifier: Apache-2.0
// `PATH[@OFFSET]`: the place of a snapshot area.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

/// A file or block device, and the offset in it at which the area starts, a multiple of 4 KiB.
struct AreaPath {
    std::string path;
    std::uint64_t offset = 0;

    /// Parses PATH or PATH@OFFSET. What follows the last '@' is the offset (with K, M, G or T) if
    /// it starts with a digit; otherwise the '@' belongs to the path. To name a file that itself
    /// ends in @DIGITS, append @0. Fails with usage if the offset is invalid or the path is empty.
    static Result<AreaPath> parse(std::string_view text);
    /// Returns what parse() reads as this place.
    [[nodiscard]] std::string text() const;
    friend bool operator==(const AreaPath&, const AreaPath&) = default;
};

}  // namespace snapvm
