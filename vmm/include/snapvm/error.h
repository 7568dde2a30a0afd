// SPDX-License-Identifier: Apache-2.0
// Errors are values. Each keeps the call that failed, the object of the call, errno, and advice to
// the user.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>

namespace snapvm {

/// The kind of a failure. Callers decide on the kind (exit code, HTTP status), never on the
/// message.
enum class ErrorKind : std::uint8_t {
    system,       ///< a system call failed; `code` is its errno
    usage,        ///< the caller asked for something impossible or contradictory (exit 2, HTTP 400)
    invalid,      ///< untrusted input (file, guest, API body) is malformed or corrupt
    incomplete,   ///< the last writer of the snapshot area did not finish, and the area holds no older snapshot
    busy,         ///< another holder has it: a name, an area, a lock
    unsupported,  ///< this host or build cannot do it
    not_found,    ///< the thing named does not exist
    cancelled,    ///< the caller called it off
};

/// One failure: a copyable value. Its texts are behind a pointer and its copies out of line, since
/// every function that may fail has code that moves and destroys one.
class Error {
public:
    Error(ErrorKind kind, std::string what, std::string advice = {});
    Error(const Error& other);
    Error(Error&& other) noexcept;
    Error& operator=(const Error& other);
    Error& operator=(Error&& other) noexcept;
    ~Error();

    /// Makes the error of a failed system call. `call` is its name ("KVM_CREATE_VM"), `object` what
    /// the call was made on (a path, a block, "vCPU 2").
    static Error system(std::string_view call, std::string_view object, int errno_value, std::string advice = {});

    [[nodiscard]] ErrorKind kind() const { return kind_; }
    /// Return the failed system call and its object. Both are empty if no system call failed.
    [[nodiscard]] const std::string& call() const;
    [[nodiscard]] const std::string& object() const;
    /// Returns errno of the failed call, or 0 if no system call failed.
    [[nodiscard]] int code() const { return code_; }
    /// Returns what failed and why, without the advice.
    [[nodiscard]] const std::string& what() const;
    /// Returns what the user can do about it, or an empty string. Advice names options and commands
    /// of the program `snapvm`.
    [[nodiscard]] const std::string& advice() const;

    /// Puts "`context`: " before the message. `context` says what was attempted.
    Error&& within(std::string_view context) &&;
    /// Replaces the advice.
    Error&& advise(std::string advice) &&;

    /// Returns one line: what failed, why, and the advice.
    [[nodiscard]] std::string message() const;

private:
    struct Texts;
    [[nodiscard]] const Texts& texts() const;

    ErrorKind kind_;
    int code_ = 0;
    std::unique_ptr<Texts> texts_;
};

/// A value or an Error. An ignored one is a compiler warning.
template <class T>
class [[nodiscard]] Result : public std::expected<T, Error> {
public:
    using std::expected<T, Error>::expected;
};

/// Success, or an Error.
using Status = Result<void>;

}  // namespace snapvm
