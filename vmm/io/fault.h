// SPDX-License-Identifier: Apache-2.0
// What a test does to a call on a file.
#pragma once

#include <cstdint>

namespace snapvm::io {

/// The call goes ahead if both are 0.
struct Fault {
    int error = 0;               ///< the call fails with this errno and has no effect
    std::uint64_t short_to = 0;  ///< a read or a write moves only this number of bytes, as if it met a full disk
};

}  // namespace snapvm::io
