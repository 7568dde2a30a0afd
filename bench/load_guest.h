// SPDX-License-Identifier: Apache-2.0
// A ledger guest that puts load on its virtio devices (guest-images/ledger/load_format.h), in a process of its own that is told what to do
// line by line: the product's side of the scenarios of devices.
#pragma once

#include <span>
#include <string>

#include "bench/process.h"
#include "bench/report.h"
#include "guest-images/ledger/load_format.h"
#include "vmm/base/error.h"

namespace snapvm {
class Machine;
}

namespace snapvm::bench {

/// What a guest has; devices by what they have on the host, empty: there is none.
struct LoadSetup {
    std::string memory = {};
    std::string region = {};  ///< memory for the load
    std::string receive = "64K";  ///< a buffer for what comes from vsock
    std::string disk = {};
    std::string vsock = {};
    std::string tap = {};
    bool balloon = false;
};

/// Of a guest that does nothing else.
[[nodiscard]] std::string load_command_line(const std::string& region, const std::string& receive = "64K");
/// Whether the guest listens, or has nothing to listen for.
[[nodiscard]] Result<bool> load_started(const Machine& machine);

/// The process' side: `--worker load` and LoadSetup in its order. Says "ready", then answers each line with a line of NAME=NUMBER: `ns`, from
/// just before the guest is told until it has said that it is done, and what it cost meanwhile (Usage, and the guest's counts). Between two
/// lines the guest stands.
Result<int> serve_load(std::span<const std::string> arguments);
inline constexpr std::size_t kLoadArguments = 7;

/// The bench's side.
class LoadProcess {
public:
    static Result<LoadProcess> start(const std::string& self, const LoadSetup& setup);
    /// Carries out an order.
    Result<Parts> run(const ledger::LoadOrder& order);
    /// Has the balloon take so much.
    Result<Parts> inflate(std::uint64_t bytes);
    /// The two halves of `run`, for who is the guest's peer meanwhile.
    Status begin(const ledger::LoadOrder& order);
    Result<Parts> end();

private:
    explicit LoadProcess(Process process) : process_(std::move(process)) {}
    Process process_;
};

/// 0 where there is none of that name.
[[nodiscard]] double part_of(const Parts& parts, const std::string& name);

}  // namespace snapvm::bench
