// SPDX-License-Identifier: Apache-2.0
// A ledger guest in this process that stirs its memory (guest-images/ledger/README.md), and a
// measure of its speed.
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
    std::string dirty = "log";  ///< as the option `--dirty`
    std::string cmdline = {};
    std::string balloon = {};  ///< size, which the guest gets time to reach; "": no balloon
};

/// The guest's own counts of the pages that it writes, readable while it runs. All are zero if it
/// does not stir.
class Stirring {
public:
    static Result<Stirring> find(GuestMemory& memory);
    [[nodiscard]] std::uint64_t pages() const;
    /// Returns whether every page has been written.
    [[nodiscard]] bool swept() const;
    /// Returns the region's size in pages.
    [[nodiscard]] std::uint64_t region() const { return root_.stir_pages; }

private:
    ledger::Root root_{};
    std::vector<std::uint64_t*> counts_;
};

/// A moment, and how many pages the guest had written by then.
struct SpeedMark {
    explicit SpeedMark(const Stirring& stirring) : ns(now_ns()), pages(stirring.pages()) {}
    /// Returns the speed from this moment to `later`, in pages a second.
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

    /// Boots the guest, waits for READY and until every page has been stirred once, and pauses it.
    static Result<StirringGuest> boot(const LiveGuest& guest);
};

}  // namespace snapvm::bench
