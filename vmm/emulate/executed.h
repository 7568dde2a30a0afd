// SPDX-License-Identifier: Apache-2.0
// How carrying out one instruction ended.
#pragma once

#include <expected>
#include <utility>
#include <variant>

#include "vmm/base/error.h"
#include "vmm/emulate/cpu_state.h"

namespace snapvm::emulate {

/// An instruction, or a form of one, that is not known here.
struct NotEmulated {};

/// Done; or it raises an exception in the guest; or nobody can do it; or the host failed us.
using Executed = std::expected<void, std::variant<Exception, NotEmulated, Error>>;

inline std::unexpected<std::variant<Exception, NotEmulated, Error>> raise(const Exception& exception) {
    return std::unexpected(std::variant<Exception, NotEmulated, Error>(exception));
}
inline std::unexpected<std::variant<Exception, NotEmulated, Error>> not_emulated() {
    return std::unexpected(std::variant<Exception, NotEmulated, Error>(NotEmulated{}));
}
inline std::unexpected<std::variant<Exception, NotEmulated, Error>> host_failed(Error error) {
    return std::unexpected(std::variant<Exception, NotEmulated, Error>(std::move(error)));
}

}  // namespace snapvm::emulate
