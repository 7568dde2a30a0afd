// SPDX-License-Identifier: Apache-2.0
// The public errors (vmm/include/snapvm/error.h), and how a function returns one.
#pragma once

#include <snapvm/error.h>

#include <expected>
#include <string>
#include <utility>

namespace snapvm {

/// Makes an unexpected value, shorter to write than `std::unexpected<Error>(…)`.
[[nodiscard]] inline std::unexpected<Error> fail(Error error) { return std::unexpected<Error>(std::move(error)); }
[[nodiscard]] inline std::unexpected<Error> fail(ErrorKind kind, std::string what, std::string advice = {}) {
    return std::unexpected<Error>(Error(kind, std::move(what), std::move(advice)));
}

}  // namespace snapvm
