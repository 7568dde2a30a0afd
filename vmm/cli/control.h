// SPDX-License-Identifier: Apache-2.0
// Shared by the commands to running machines: finds a machine, sends requests, reports refusals.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "vmm/api/client.h"
#include "vmm/base/error.h"
#include "vmm/cli/commands.h"
#include "vmm/cli/output.h"

namespace snapvm::cli {

/// The time limit of requests that the machine answers at once.
inline constexpr std::chrono::seconds kQuickAnswer{10};
inline constexpr int kExitTimeout = 124;

/// Returns the path of the API socket of machine `name` in the run folder. Fails like
/// RunDir::check.
Result<std::string> socket_of(const Globals& globals, const std::string& name);
/// Connects to a machine. Fails with not_found, and advises `snapvm ps`, if no such machine runs.
Result<api::ApiClient> connect_machine(const Globals& globals, const std::string& name);
Result<api::ApiClient> connect_socket(const std::string& api_socket, const std::string& name);

/// Waits until the process of a machine that has ended is gone and its name is free. Fails with
/// system after `timeout`.
Status wait_gone(const Globals& globals, const std::string& name, std::chrono::milliseconds timeout);

/// Sends a request and returns the body of the answer. If the machine refuses, fails with the
/// machine's message.
Result<std::string> ask(api::ApiClient& client, std::string_view method, std::string_view target,
                        const std::string& body, std::chrono::milliseconds timeout);
[[nodiscard]] Error refusal(const api::ApiReply& reply);

/// Parses a duration option into whole milliseconds, rounded up.
Result<std::chrono::milliseconds> parse_timeout(const std::string& text);

}  // namespace snapvm::cli
