// SPDX-License-Identifier: Apache-2.0
// A ledger guest that puts load on its virtio devices (guest-images/ledger/load_format.h), in a
// process of its own that gets orders line by line: the product's side of the device scenarios.
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

/// The guest's memory and devices. A device is named by what backs it on the host; an empty name
/// means no device.
struct LoadSetup {
    std::string memory = {};
    std::string region = {};  ///< size of the load's memory
    std::string receive = "64K";  ///< size of a receive buffer for vsock
    std::string disk = {};
    std::string vsock = {};
    std::string tap = {};
    bool balloon = false;
};

/// Returns the command line of a guest that only puts load on devices.
[[nodiscard]] std::string load_command_line(const std::string& region, const std::string& receive = "64K");
/// Returns whether the guest accepts orders. Returns true if its command line has no load.
[[nodiscard]] Result<bool> load_started(const Machine& machine);

/// Serves orders in the worker process (`--worker load`). The arguments are the members of
/// LoadSetup in order. Prints "ready", then answers each line with NAME=NUMBER words: `ns` from
/// just before the guest gets the order until it has reported the end, and what it cost meanwhile
/// (Usage, and the guest's counts). The machine is paused between two lines.
Result<int> serve_load(std::span<const std::string> arguments);
inline constexpr std::size_t kLoadArguments = 7;

/// Controls the worker process from the bench.
class LoadProcess {
public:
    static Result<LoadProcess> start(const std::string& self, const LoadSetup& setup);
    /// Carries out an order.
    Result<Parts> run(const ledger::LoadOrder& order);
    /// Sets the balloon's target and waits until the balloon holds that many bytes.
    Result<Parts> inflate(std::uint64_t bytes);
    /// The two halves of run(), for a caller that is the guest's peer meanwhile.
    Status begin(const ledger::LoadOrder& order);
    Result<Parts> end();

private:
    explicit LoadProcess(Process process) : process_(std::move(process)) {}
    Process process_;
};

/// Returns the number of that name, 0 if there is none.
[[nodiscard]] double part_of(const Parts& parts, const std::string& name);

}  // namespace snapvm::bench
