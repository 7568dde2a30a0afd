// SPDX-License-Identifier: Apache-2.0
// MAC addresses of network interfaces, of six bytes (IEEE 802).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

using MacAddress = std::array<std::uint8_t, 6>;

/// Returns a random unicast address, locally administered. Fails with system if getrandom(2) does.
Result<MacAddress> random_mac();
/// Parses "02:00:00:00:00:0a". Fails with usage for anything else.
Result<MacAddress> parse_mac(std::string_view text);
[[nodiscard]] std::string mac_text(const MacAddress& mac);

}  // namespace snapvm
