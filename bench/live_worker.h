// SPDX-License-Identifier: Apache-2.0
// A ledger guest in a process of its own that makes snapshots on request, line by line: the
// product's side of the scenarios with a running guest.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "bench/process.h"
#include "bench/stirring_guest.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// Serves requests in the worker process. The arguments are the members of LiveGuest in order.
/// Boots, waits until the stirred region was written once, and prints "ready". For each line it
/// then resumes the guest, sends it the bytes before the first '{', makes the snapshot that the
/// rest describes (the body of PUT /snapshot/create), and pauses the guest. It answers with the
/// snapshot's report and, in "guest", the pages a second that the guest stirred before, during and
/// after.
Result<int> serve_live(std::span<const std::string> arguments);

/// Controls the worker process from the bench.
class LiveProcess {
public:
    static Result<LiveProcess> start(const std::string& self, const LiveGuest& guest);
    [[nodiscard]] pid_t pid() const { return process_.pid(); }
    /// Makes a snapshot. The guest's serial port gets `input` just before.
    Result<nlohmann::json> snapshot(const nlohmann::json& body, const std::string& input = "");

private:
    explicit LiveProcess(Process process) : process_(std::move(process)) {}
    Process process_;
};

}  // namespace snapvm::bench
