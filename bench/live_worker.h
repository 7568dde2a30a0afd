// SPDX-License-Identifier: Apache-2.0
// A ledger guest in a process of its own, of which snapshots are asked line by line: the product's side of the scenarios with a guest
// that runs.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "bench/process.h"
#include "bench/stirring_guest.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// The process' side: arguments are those of LiveGuest in order. Boots, waits until a stirred region was written once, says "ready", and
/// then for each line: lets the guest run, sends it what stands before the first '{', makes the snapshot that the rest asks for (the body
/// of PUT /snapshot/create), stops the guest,
/// and answers with the snapshot's report, and in "guest" the pages a second it stirred before, during and after.
Result<int> serve_live(std::span<const std::string> arguments);

/// The bench's side.
class LiveProcess {
public:
    static Result<LiveProcess> start(const std::string& self, const LiveGuest& guest);
    [[nodiscard]] pid_t pid() const { return process_.pid(); }
    /// `input` goes to the guest's serial port just before.
    Result<nlohmann::json> snapshot(const nlohmann::json& body, const std::string& input = "");

private:
    explicit LiveProcess(Process process) : process_(std::move(process)) {}
    Process process_;
};

}  // namespace snapvm::bench
