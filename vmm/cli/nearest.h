// SPDX-License-Identifier: Apache-2.0
// Finds what a mistyped word may have meant.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace snapvm::cli {

/// Returns the word of `words` that is the fewest edits away from `wrong` (letters added, left out,
/// replaced, or two neighbours exchanged), or an empty string if none is near: more than a third of
/// the letters would have to change.
[[nodiscard]] std::string nearest(std::string_view wrong, std::span<const std::string> words);

}  // namespace snapvm::cli
