// SPDX-License-Identifier: Apache-2.0
// A ledger guest that stirs its memory (guest-images/ledger/README.md), in this process, and how fast it does.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/process.h"
#include "guest-images/ledger/ledger_format.h"
#include "vmm/base/error.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/machine.h"

namespace snapvm::bench {

struct LiveGuest {
    std::string memory = "1G";
    std::string cpus = "1";
    std::string dirty = "log";  ///< as `--dirty` has it
    std::string cmdline = {};
    std::string balloon = {};  ///< its size, which the guest is given time to reach; "": there is none
};

/// The counts that the guest keeps of the pages it writes, read while it runs. All zero where it does not stir.
class Stirring {
public:
    static Result<Stirring> find(GuestMemory& memory);
    [[nodiscard]] std::uint64_t pages() const;
    /// Every page has been written.
    [[nodiscard]] bool swept() const;
    /// The region's size, in pages.
    [[nodiscard]] std::uint64_t region() const { return root_.stir_pages; }

private:
    ledger::Root root_{};
    std::vector<std::uint64_t*> counts_;
};

/// A moment, and how far the guest was.
struct SpeedMark {
    explicit SpeedMark(const Stirring& stirring) : ns(now_ns()), pages(stirring.pages()) {}
    /// Pages a second.
    [[nodiscard]] double rate_to(const SpeedMark& later) const {
        return static_cast<double>(later.pages - pages) * 1e9 / static_cast<double>(later.ns - ns);
    }
    std::uint64_t ns;
    std::uint64_t pages;
};

struct StirringGuest {
    std::unique_ptr<kvm::System> system;
    std::unique_ptr<Machine> machine;
    Stirring stirring;

    /// READY, every page stirred once, paused.
    static Result<StirringGuest> boot(const LiveGuest& guest);
};

}  // namespace snapvm::bench
