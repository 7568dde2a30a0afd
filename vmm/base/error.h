// SPDX-License-Identifier: Apache-2.0
// Errors are values. Each keeps what failed (the call), what it was about (the object), errno, and what the user can do.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace snapvm {

/// What sort of failure this is; callers decide on it (exit codes, HTTP status), never on the message.
enum class ErrorKind : std::uint8_t {
    system,       ///< a system call failed; `code` is its errno
    usage,        ///< the caller asked for something that makes no sense (exit 2, HTTP 400)
    invalid,      ///< untrusted input (file, guest, API body) is malformed or corrupt
    incomplete,   ///< a snapshot area whose last writer did not finish and that holds nothing older
    busy,         ///< held by somebody else: a name, an area, a lock
    unsupported,  ///< this host or build cannot do it
    not_found,    ///< the thing named does not exist
    cancelled,    ///< called off by whoever asked for it
};

/// One failure. Plain value, copyable, no hidden state.
class Error {
public:
    Error(ErrorKind kind, std::string what, std::string advice = {});

    /// A failed system call: `call` as one would look it up ("KVM_CREATE_VM"), `object` what it was about (a path, a block, "vCPU 2").
    static Error system(std::string_view call, std::string_view object, int errno_value, std::string advice = {});

    [[nodiscard]] ErrorKind kind() const { return kind_; }
    /// errno of the failed call, 0 where there was none.
    [[nodiscard]] int code() const { return code_; }
    [[nodiscard]] const std::string& what() const { return what_; }
    [[nodiscard]] const std::string& advice() const { return advice_; }

    /// Puts "`context`: " in front: what was being attempted when this failed.
    Error&& within(std::string_view context) &&;
    /// Replaces the advice where the caller knows better.
    Error&& advise(std::string advice) &&;

    /// One line: what failed, why, what to do.
    [[nodiscard]] std::string message() const;

private:
    ErrorKind kind_;
    int code_ = 0;
    std::string what_;
    std::string advice_;
};

/// A value or an Error. Ignoring one is a compiler warning, and warnings are errors here.
template <class T>
class [[nodiscard]] Result : public std::expected<T, Error> {
public:
    using std::expected<T, Error>::expected;
};

using Status = Result<void>;

/// `return fail(Error…)` reads better than std::unexpected.
[[nodiscard]] inline std::unexpected<Error> fail(Error error) { return std::unexpected<Error>(std::move(error)); }
[[nodiscard]] inline std::unexpected<Error> fail(ErrorKind kind, std::string what, std::string advice = {}) {
    return std::unexpected<Error>(Error(kind, std::move(what), std::move(advice)));
}

}  // namespace snapvm
