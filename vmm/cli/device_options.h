// SPDX-License-Identifier: Apache-2.0
// Devices as the command line describes them: KEY=VALUE,KEY=VALUE,...
#pragma once

#include <string>

#include "devices/device_config.h"
#include "vmm/base/error.h"

namespace snapvm::cli {

/// "id=root,path=F[,readonly=on|off]". The path is made absolute: the configuration outlives the folder that this runs in.
Result<DiskConfig> parse_disk(const std::string& text);

}  // namespace snapvm::cli
