// SPDX-License-Identifier: Apache-2.0
// Waits for a line of serial output that matches a user's pattern.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/machine/console.h"

namespace snapvm {

/// A compiled ECMAScript pattern that is searched for within a line. A search takes time linear in
/// the line's length, whatever the pattern is. It never changes; any thread may use it.
class LineMatcher {
public:
    static constexpr std::size_t kMaxPattern = 256;
    /// The search covers this many bytes of a longer line.
    static constexpr std::size_t kMaxLine = 4096;

    /// Fails with usage if the pattern is empty, wrong, too long, too large once its {n} are
    /// expanded, or has back-references, which cannot be matched in linear time.
    static Result<LineMatcher> compile(std::string_view pattern);
    LineMatcher(LineMatcher&&) noexcept;
    LineMatcher& operator=(LineMatcher&&) noexcept;
    ~LineMatcher();

    [[nodiscard]] bool matches(std::string_view line) const;

private:
    struct Pattern;
    explicit LineMatcher(std::unique_ptr<Pattern> pattern);
    std::unique_ptr<Pattern> pattern_;
};

/// Returns the first line that matches, among the output that the console still has and what
/// follows. A line ends with "
/// " or "\r
/// ". An unfinished line counts once it has matched for 50 ms, since a prompt has no line end.
/// Returns nothing if the deadline passes, if `given_up` returns true, or if all was read and
/// `over` returns true.
std::optional<std::string> wait_for_line(const Console& console, const LineMatcher& matcher,
                                         std::chrono::steady_clock::time_point deadline,
                                         const std::function<bool()>& given_up, const std::function<bool()>& over);

}  // namespace snapvm
