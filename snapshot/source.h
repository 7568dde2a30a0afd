// SPDX-License-Identifier: Apache-2.0
// All that the snapshot layer asks of a running machine.
#pragma once

#include <chrono>
#include <functional>
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
    /// Devices begin nothing new, and what they have begun ends while the vCPUs run, however long a disk takes: a freeze then does not wait
    /// for it. `go_on` is asked now and then meanwhile; with its error, and any other, nothing is held.
    virtual Status quiesce(const std::function<Status()>& go_on) = 0;
    /// Undoes one quiesce; devices begin again once nothing else holds them. Never fails.
    virtual void unquiesce() = 0;
    /// Stops vCPUs and devices. When the first vCPU was asked to stop. When it fails, the machine runs on as before.
    virtual Result<std::chrono::steady_clock::time_point> freeze() = 0;
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
    /// Has the guest give up memory that it has free already, `most` bytes at most, for the time of the snapshot; how much it was, which is
    /// nothing where it cannot be asked. Takes as long as the guest does, within limits; `go_on` as for quiesce. The saved state is that of a
    /// machine whose guest takes it back by itself.
    virtual Result<std::uint64_t> release_free(std::uint64_t most, const std::function<Status()>& go_on) {
        (void)most;
        (void)go_on;
        return 0;
    }
    /// The guest may have it back. Idempotent; never fails. While the machine is frozen it returns at once, and the guest has it with the thaw:
    /// afterwards, where pages are protected, who holds the locks that this needs may be waiting for the snapshot's own thread.
    virtual void give_back() {}
};

/// Gives back what a guest has given up for a snapshot, on every way out.
class ReleaseGuard {
public:
    explicit ReleaseGuard(SnapshotSource& source) : source_(source) {}
    ReleaseGuard(const ReleaseGuard&) = delete;
    ReleaseGuard& operator=(const ReleaseGuard&) = delete;
    ~ReleaseGuard() { source_.give_back(); }

private:
    SnapshotSource& source_;
};

/// Keeps a machine's devices at rest; lets them go on every way out.
class QuiesceGuard {
public:
    static Result<QuiesceGuard> quiesce(SnapshotSource& source, const std::function<Status()>& go_on) {
        if (Status status = source.quiesce(go_on); !status) {
            return fail(std::move(status).error());
        }
        return QuiesceGuard(source);
    }
    QuiesceGuard(QuiesceGuard&& other) noexcept : source_(std::exchange(other.source_, nullptr)) {}
    QuiesceGuard& operator=(QuiesceGuard&&) = delete;
    ~QuiesceGuard() {
        if (source_ != nullptr) {
            source_->unquiesce();
        }
    }

private:
    friend class FreezeGuard;
    explicit QuiesceGuard(SnapshotSource& source) : source_(&source) {}
    SnapshotSource* source_;
};

/// Keeps a machine frozen; thaws it on every way out.
class FreezeGuard {
public:
    /// The guest stands for as long as devices take to end what they have begun, and some more.
    static Result<FreezeGuard> freeze(SnapshotSource& source) {
        const auto since = source.freeze();
        if (!since) {
            return fail(since.error());
        }
        return FreezeGuard(source, *since);
    }
    /// What `quiet` holds the freeze holds from now on: devices begin again with the thaw.
    static Result<FreezeGuard> freeze(QuiesceGuard quiet) { return freeze(*quiet.source_); }
    FreezeGuard(FreezeGuard&& other) noexcept : source_(std::exchange(other.source_, nullptr)), since_(other.since_) {}
    FreezeGuard& operator=(FreezeGuard&&) = delete;
    ~FreezeGuard() { thaw(); }

    /// When the first vCPU was asked to stop.
    [[nodiscard]] std::chrono::steady_clock::time_point since() const { return since_; }
    /// When it ran again.
    std::chrono::steady_clock::time_point thaw() {
        SnapshotSource* source = std::exchange(source_, nullptr);
        return source != nullptr ? source->thaw() : std::chrono::steady_clock::now();
    }
    /// Leaves the machine frozen: the caller is to stop it.
    void release() { source_ = nullptr; }

private:
    FreezeGuard(SnapshotSource& source, std::chrono::steady_clock::time_point since) : source_(&source), since_(since) {}
    SnapshotSource* source_;
    std::chrono::steady_clock::time_point since_;
};

}  // namespace snapvm
