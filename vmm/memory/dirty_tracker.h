// SPDX-License-Identifier: Apache-2.0
// Who tells which pages a guest writes. Implemented over KVM by vmm/machine (dirty log, dirty ring), and by tests.
#pragma once

#include <cstdint>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"

namespace snapvm {

/// Reports the guest's writes (the VMM's own are in WriteMarks). One thread at a time; the guest runs meanwhile.
class DirtyTracker {
public:
    virtual ~DirtyTracker() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;

    /// Switches the tracking on. Until a page is armed, its writes may go unreported.
    virtual Status start() = 0;
    /// Pages [first, first + count) of a block (its place in block-list order): from now on each write is reported by the next collect.
    virtual Status arm(std::size_t block, std::uint64_t first, std::uint64_t count) = 0;
    /// Adds the armed pages written since they were armed, or since the last collect, and arms them anew: what is read of them after
    /// this returns is new enough (clear first, then copy: traps.md).
    virtual Status collect(DirtySet& into) = 0;
    /// Adds what the next collect would bring, and leaves it to that one: while nobody writes. Costs no protecting of pages anew, which
    /// for many pages takes as long as copying them.
    virtual Status peek(DirtySet& into) = 0;
    /// Switches it off; costs the guest nothing any more.
    virtual void stop() = 0;
};

}  // namespace snapvm
