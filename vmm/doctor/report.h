// SPDX-License-Identifier: Apache-2.0
// Host facts as people and as programs read them.
#pragma once

#include <string>

#include "vmm/doctor/facts.h"

namespace snapvm::doctor {

/// One JSON object without a line break; bench results carry it as their host's facts. With `advice`, its lines too.
[[nodiscard]] std::string facts_json(const HostFacts& facts, bool advice = false);
/// A table, then one line a piece of advice; ends with a line break.
[[nodiscard]] std::string facts_table(const HostFacts& facts);

}  // namespace snapvm::doctor
