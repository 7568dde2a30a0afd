// SPDX-License-Identifier: Apache-2.0
// Serves one client of the console: sends the scrollback and then the guest's output, and passes
// the client's bytes to the guest.
#pragma once

#include <functional>
#include <string_view>

#include "vmm/control/service.h"

namespace snapvm::api {

/// Serves the connected socket `fd` until the client hangs up, the machine has ended and all its
/// output is sent, or `stopping` returns true. A client that has shut down only its sending side
/// still receives. A client that reads too slowly loses the oldest output (the guest does not wait
/// for it), and only shutdown(2) ends its connection. `early` is input that arrived with the
/// request.
void relay_console(Service& service, int fd, std::string_view early, const std::function<bool()>& stopping);

}  // namespace snapvm::api
