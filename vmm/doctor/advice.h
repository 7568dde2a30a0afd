// SPDX-License-Identifier: Apache-2.0
// What to do about a host, judged from its facts alone.
#pragma once

#include <string>
#include <vector>

#include "vmm/doctor/facts.h"

namespace snapvm::doctor {

/// One thing that is missing or slow: what it means for snapvm and what to do, in one line. `topic` is the fact's name in the JSON.
struct Advice {
    std::string topic;
    std::string text;
};

/// Nothing for what is fine, so an empty answer is a good host.
[[nodiscard]] std::vector<Advice> advise(const HostFacts& facts);

}  // namespace snapvm::doctor
