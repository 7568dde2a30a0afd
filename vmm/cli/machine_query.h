// SPDX-License-Identifier: Apache-2.0
// Asks a running machine what it is.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/cli/commands.h"
#include "vmm/machine/config.h"

namespace snapvm::cli {

/// Memory and vCPUs of the running machine NAME (GET /machine-config); the rest of the configuration is not filled in.
Result<MachineConfig> query_config(const Globals& globals, const std::string& name);

}  // namespace snapvm::cli
