// SPDX-License-Identifier: Apache-2.0
// Text from outside (a path, a name in a snapshot, a guest's line) for a terminal and for JSON. It
// may hold escape sequences, and bytes that are no UTF-8. All text that snapvm prints goes through
// these functions where it leaves: through vmm/cli/output.h, and through json_text().
#pragma once

#include <string>
#include <string_view>

namespace snapvm {

/// Returns the text with \xNN for each byte that is not valid UTF-8, and for those of characters
/// that a terminal obeys: control characters other than tabs, line ends, and signs that change the
/// direction of text. The result is one line.
[[nodiscard]] std::string printable(std::string_view text);
/// Does the same to text of several lines: line ends stay.
[[nodiscard]] std::string printable_lines(std::string_view text);
/// Returns the JSON text with \uNNNN for such characters. `json` must be valid.
[[nodiscard]] std::string printable_json(std::string_view json);

/// Returns a value of nlohmann-json as one line. A string's bytes that are not UTF-8, for which
/// dump() would throw, are replaced.
template <class Json>
[[nodiscard]] std::string json_text(const Json& value) {
    return printable_json(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace snapvm
