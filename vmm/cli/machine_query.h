// SPDX-License-Identifier: Apache-2.0
// Queries the configuration of a running machine.
#pragma once

#include <string>

#include "vmm/base/error.h"
#include "vmm/cli/commands.h"
#include "vmm/config/machine_config.h"

namespace snapvm::cli {

/// Returns memory and vCPUs of the running machine NAME (GET /machine-config). The other fields
/// have their defaults.
Result<MachineConfig> query_config(const Globals& globals, const std::string& name);

}  // namespace snapvm::cli
