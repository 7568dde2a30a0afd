// SPDX-License-Identifier: Apache-2.0
// Gives advice on a host, from its facts alone.
#pragma once

#include <string>
#include <vector>

#include "vmm/doctor/facts.h"

namespace snapvm::doctor {

/// One missing or slow feature: what it means for snapvm and what to do, in one line. `topic` is
/// the fact's name in the JSON.
struct Advice {
    std::string topic;
    std::string text;
};

/// Returns advice only for problems, so an empty result means a good host.
[[nodiscard]] std::vector<Advice> advise(const HostFacts& facts);

}  // namespace snapvm::doctor
