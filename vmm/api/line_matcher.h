// SPDX-License-Identifier: Apache-2.0
// Waiting for a line of serial output that matches a pattern that somebody else wrote.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/machine/console.h"

namespace snapvm::api {

/// A compiled ECMAScript pattern that is searched for within a line, in time linear in the line's length whatever the pattern is.
/// Immutable: any thread.
class LineMatcher {
public:
    static constexpr std::size_t kMaxPattern = 256;
    /// Of a longer line only so many bytes are looked at.
    static constexpr std::size_t kMaxLine = 4096;

    /// ErrorKind::usage for a pattern that is empty, wrong, too long, too large once its {n} are written out, or has
    /// back-references, which linear time does not allow.
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

/// The first line that matches, of all output that the console still has and of what comes. A line that has not ended yet counts
/// when it has matched for 50 ms (a prompt has no line end); "\r\n" and "\n" end one. Nothing when the deadline passes,
/// `given_up` says so, or all has been read and `over` says that no more comes.
std::optional<std::string> wait_for_line(const Console& console, const LineMatcher& matcher,
                                         std::chrono::steady_clock::time_point deadline, const std::function<bool()>& given_up,
                                         const std::function<bool()>& over);

}  // namespace snapvm::api
