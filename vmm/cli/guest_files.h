// SPDX-License-Identifier: Apache-2.0
// The files a guest is booted from: "builtin:NAME" or paths.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/mapping.h"

namespace snapvm::cli {

/// A file's bytes, mapped read-only, or a guest that is part of this program.
class GuestFile {
public:
    /// `what` is for messages: "kernel", "initrd". Empty files, folders and devices are refused.
    static Result<GuestFile> open(const std::string& path, const std::string& what);
    [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

private:
    Mapping mapping_;
    std::span<const std::byte> bytes_;
};

}  // namespace snapvm::cli
