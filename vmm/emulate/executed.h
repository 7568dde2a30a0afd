// SPDX-License-Identifier: Apache-2.0
// The result of an emulated instruction.
#pragma once

#include <expected>
#include <utility>
#include <variant>

#include "vmm/base/error.h"
#include "vmm/emulate/cpu_state.h"

namespace snapvm::emulate {

/// The instruction, or this form of it, is not implemented here.
struct NotEmulated {};

/// Why an instruction was not carried out: it raises an exception in the guest, it is not
/// implemented, or the host failed.
using NotDone = std::variant<Exception, NotEmulated, Error>;
using Executed = std::expected<void, NotDone>;

inline std::unexpected<NotDone> raise(const Exception& exception) { return std::unexpected<NotDone>(exception); }
inline std::unexpected<NotDone> not_emulated() { return std::unexpected<NotDone>(NotEmulated{}); }
inline std::unexpected<NotDone> host_failed(Error error) { return std::unexpected<NotDone>(std::move(error)); }

}  // namespace snapvm::emulate
