// SPDX-License-Identifier: Apache-2.0
// Addresses of network interfaces, of six bytes (IEEE 802).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

using MacAddress = std::array<std::uint8_t, 6>;

/// From getrandom(2): one interface's, administered locally.
Result<MacAddress> random_mac();
/// "02:00:00:00:00:0a"; usage.
Result<MacAddress> parse_mac(std::string_view text);
[[nodiscard]] std::string mac_text(const MacAddress& mac);

}  // namespace snapvm
