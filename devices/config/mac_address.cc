// SPDX-License-Identifier: Apache-2.0
#include "devices/config/mac_address.h"

#include <sys/random.h>

#include <cerrno>
#include <charconv>

namespace snapvm {

Result<MacAddress> random_mac() {
    MacAddress mac;
    if (::getrandom(mac.data(), mac.size(), 0) != static_cast<ssize_t>(mac.size())) {
        return fail(Error::system("getrandom", "", errno));
    }
    mac[0] = static_cast<std::uint8_t>((mac[0] & 0xFC) | 2);  // unicast and locally administered
    return mac;
}

Result<MacAddress> parse_mac(std::string_view text) {
    MacAddress mac{};
    bool good = text.size() == 3 * mac.size() - 1;
    for (std::size_t i = 0; good && i < mac.size(); ++i) {
        const char* begin = text.data() + 3 * i;
        const auto [end, error] = std::from_chars(begin, begin + 2, mac[i], 16);
        good = error == std::errc() && end == begin + 2 && (i + 1 == mac.size() || *end == ':');
    }
    if (!good) {
        return fail(ErrorKind::usage, "\"" + std::string(text) + "\" is not a MAC address",
                    "write it as 02:00:00:00:00:0a");
    }
    return mac;
}

std::string mac_text(const MacAddress& mac) {
    constexpr std::string_view kHex = "0123456789abcdef";
    std::string text;
    for (const std::uint8_t byte : mac) {
        text += text.empty() ? "" : ":";
        text += kHex[byte >> 4];
        text += kHex[byte & 15];
    }
    return text;
}

}  // namespace snapvm
