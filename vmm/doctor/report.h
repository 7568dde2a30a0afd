// SPDX-License-Identifier: Apache-2.0
// Formats host facts for people and for programs.
#pragma once

#include <string>

#include "vmm/doctor/facts.h"

namespace snapvm::doctor {

/// Returns one JSON object without a line break. Bench results contain it as the facts of their
/// host. `advice` adds the lines of advice.
[[nodiscard]] std::string facts_json(const HostFacts& facts, bool advice = false);
/// Returns a table, then one line for each advice, with a line break at the end.
[[nodiscard]] std::string facts_table(const HostFacts& facts);

}  // namespace snapvm::doctor
