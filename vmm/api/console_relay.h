// SPDX-License-Identifier: Apache-2.0
// One client of the console: the scrollback, then what the guest writes, and back what the client sends.
#pragma once

#include <functional>
#include <string_view>

#include "vmm/api/service.h"

namespace snapvm::api {

/// Serves the connected socket `fd` until the client hangs up, the machine has ended and all its output is sent, or `stopping`
/// says so. A client that has shut down only its sending side goes on receiving. One that reads too slowly loses the oldest
/// output (the guest never waits for it) and is cut off by shutdown(2) only. `early`: input that came in with the request.
void relay_console(Service& service, int fd, std::string_view early, const std::function<bool()>& stopping);

}  // namespace snapvm::api
