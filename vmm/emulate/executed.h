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

/// It raises an exception in the guest; or nobody can do it; or the host failed us.
using NotDone = std::variant<Exception, NotEmulated, Error>;
using Executed = std::expected<void, NotDone>;

inline std::unexpected<NotDone> raise(const Exception& exception) { return std::unexpected<NotDone>(exception); }
inline std::unexpected<NotDone> not_emulated() { return std::unexpected<NotDone>(NotEmulated{}); }
inline std::unexpected<NotDone> host_failed(Error error) { return std::unexpected<NotDone>(std::move(error)); }

}  // namespace snapvm::emulate
