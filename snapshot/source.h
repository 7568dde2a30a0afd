// SPDX-License-Identifier: Apache-2.0
// All that the snapshot layer asks of a running machine.
#pragma once

#include <chrono>
#include <utility>

#include "vmm/base/error.h"
#include "vmm/machine/config.h"
#include "vmm/machine/saved_state.h"
#include "vmm/memory/dirty_feed.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// A machine to be written down. Called from one thread; lives longer than the call it is given to.
class SnapshotSource {
public:
    virtual ~SnapshotSource() = default;
    /// May be called at any time; does not change.
    [[nodiscard]] virtual const MachineConfig& config() const = 0;
    /// Stops vCPUs and devices. When it fails, the machine runs on as before.
    virtual Status freeze() = 0;
    /// Undoes one freeze. Never fails: a guest must not stay stopped because a snapshot went wrong. Returns when the guest was running again,
    /// which this thread may learn later: the vCPUs that it woke may have taken its processor.
    virtual std::chrono::steady_clock::time_point thaw() = 0;
    /// The state of the frozen machine, memory apart.
    virtual Result<SavedMachine> save() = 0;
    /// The blocks; they may change under the reader unless frozen.
    [[nodiscard]] virtual const GuestMemory& memory() const = 0;
    /// Tells which pages are written while it runs; null where that cannot be known.
    [[nodiscard]] virtual DirtyFeed* dirty() = 0;
    /// Whether its guest can be asked which pages it has no use for.
    [[nodiscard]] virtual bool can_tell_free_pages() const { return false; }
    /// Adds those pages: their contents do not matter until the guest writes there, which it may do at once. Takes as long as the guest
    /// does to answer, within limits.
    virtual void add_free_pages(DirtySet& into) { (void)into; }
};

/// Keeps a machine frozen; thaws it on every way out.
class FreezeGuard {
public:
    static Result<FreezeGuard> freeze(SnapshotSource& source) {
        if (Status status = source.freeze(); !status) {
            return fail(std::move(status).error());
        }
        return FreezeGuard(source);
    }
    FreezeGuard(FreezeGuard&& other) noexcept : source_(std::exchange(other.source_, nullptr)) {}
    FreezeGuard& operator=(FreezeGuard&&) = delete;
    ~FreezeGuard() { thaw(); }

    /// When it ran again.
    std::chrono::steady_clock::time_point thaw() {
        SnapshotSource* source = std::exchange(source_, nullptr);
        return source != nullptr ? source->thaw() : std::chrono::steady_clock::now();
    }
    /// Leaves the machine frozen: the caller is to stop it.
    void release() { source_ = nullptr; }

private:
    explicit FreezeGuard(SnapshotSource& source) : source_(&source) {}
    SnapshotSource* source_;
};

}  // namespace snapvm
