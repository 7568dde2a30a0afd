// SPDX-License-Identifier: Apache-2.0
// The files that a new machine boots from: paths, or "builtin:ledger".
#pragma once

#include <vector>

#include "vmm/base/error.h"
#include "vmm/boot/loader.h"
#include "vmm/config/machine_config.h"
#include "vmm/memory/mapping.h"

namespace snapvm {

/// The kernel and the initrds that a configuration names, mapped read-only.
class GuestFiles {
public:
    /// Opens the files. Fails with usage if one is empty, larger than 4 GiB, or not a regular file.
    static Result<GuestFiles> open(const MachineConfig& config);
    /// Returns what Machine::create boots. It is valid as long as this object.
    [[nodiscard]] const BootSource& source() const { return source_; }

private:
    Result<std::span<const std::byte>> bytes_of(const std::string& path, const std::string& what);

    std::vector<Mapping> mappings_;
    BootSource source_;
};

}  // namespace snapvm
