// SPDX-License-Identifier: Apache-2.0
// The classes of a 4 KiB page in a snapshot. A page has the first class that fits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace snapvm {

/// The numbers are those of the page entries on disk (snapshot/format/FORMAT.md) and never change.
enum class PageClass : std::uint8_t {
    absent = 0,   ///< never populated; reads as zeros
    zero = 1,     ///< populated, all bytes zero
    common = 2,   ///< has data
    shared = 3,   ///< has data, equal to that of a lower-numbered page
    balloon = 4,  ///< given up through the balloon
    free = 5,     ///< free in the guest, as it reported or hinted
    swapped = 6,  ///< evicted to the machine's swap file; has data
};
inline constexpr std::size_t kPageClassCount = 7;

[[nodiscard]] constexpr bool has_data(PageClass page_class) {
    return page_class == PageClass::common || page_class == PageClass::shared || page_class == PageClass::swapped;
}

[[nodiscard]] constexpr std::string_view name_of(PageClass page_class) {
    constexpr std::array<std::string_view, kPageClassCount> kNames = {"absent",  "zero", "common", "shared",
                                                                      "balloon", "free", "swapped"};
    return kNames[static_cast<std::size_t>(page_class)];
}

}  // namespace snapvm
