// SPDX-License-Identifier: Apache-2.0
// The interface to what reports a guest's writes. vmm/kvm implements it over KVM (dirty log, dirty
// ring); tests implement it, too.
#pragma once

#include <cstdint>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"

namespace snapvm {

/// Reports the pages that the guest writes; the VMM's own writes are in WriteMarks. One thread uses
/// it at a time, while the guest runs.
class DirtyTracker {
public:
    virtual ~DirtyTracker() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;

    /// Switches tracking on. Writes to a page that is not armed may go unreported.
    virtual Status start() = 0;
    /// Arms pages [first, first + count) of a block (its place in the block list): the next collect
    /// reports each write from now on.
    virtual Status arm(std::size_t block, std::uint64_t first, std::uint64_t count) = 0;
    /// Adds the armed pages written since they were armed, or since the last collect, and arms them
    /// again. The caller reads a page's contents after it returns. The implementation arms a page
    /// before it returns, so that a write after that read is reported by the next collect.
    virtual Status collect(DirtySet& into) = 0;
    /// Adds what the next collect would report, and leaves it for that collect. Nothing may write
    /// to guest memory meanwhile. It protects no page again, which for many pages takes as long as
    /// copying them.
    virtual Status peek(DirtySet& into) = 0;
    /// Switches tracking off; the guest's writes cost nothing more.
    virtual void stop() = 0;
};

}  // namespace snapvm
