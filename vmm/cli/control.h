// SPDX-License-Identifier: Apache-2.0
// What the commands to running machines share: finding the machine, asking it, telling its refusals.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "vmm/api/client.h"
#include "vmm/base/error.h"
#include "vmm/cli/commands.h"

namespace snapvm::cli {

/// For requests that the machine answers at once.
inline constexpr std::chrono::seconds kQuickAnswer{10};
inline constexpr int kExitTimeout = 124;

/// The socket of the machine called `name`, from the run folder.
Result<std::string> socket_of(const Globals& globals, const std::string& name);
/// not_found, naming `snapvm ps`, when no such machine runs.
Result<api::ApiClient> connect_machine(const Globals& globals, const std::string& name);
Result<api::ApiClient> connect_socket(const std::string& api_socket, const std::string& name);

/// Returns when the process of a machine that has ended is gone, and its name free. Fails when that takes longer than `timeout`.
Status wait_gone(const Globals& globals, const std::string& name, std::chrono::milliseconds timeout);

/// The body of the answer; a refusal is an error with the machine's own words.
Result<std::string> ask(api::ApiClient& client, std::string_view method, std::string_view target, const std::string& body,
                        std::chrono::milliseconds timeout);
[[nodiscard]] Error refusal(const api::ApiReply& reply);

/// `text` and a line end on stdout.
void print_line(std::string_view text);

/// A duration option in whole milliseconds, rounded up.
Result<std::chrono::milliseconds> parse_timeout(const std::string& text);

}  // namespace snapvm::cli
