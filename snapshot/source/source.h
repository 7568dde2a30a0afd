// SPDX-License-Identifier: Apache-2.0
// What the snapshot layer needs from a running machine.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "vmm/base/error.h"
#include "vmm/config/machine_config.h"
#include "vmm/config/saved_state.h"
#include "vmm/memory/dirty_feed.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm {

/// The machine that a snapshot is made of. One thread calls all functions but config(), quiesce(),
/// unquiesce(), freeze() and thaw(). Outlives each call that it is passed to.
class SnapshotSource {
public:
    virtual ~SnapshotSource() = default;
    /// Returns the configuration, which never changes. May be called at any time.
    [[nodiscard]] virtual const MachineConfig& config() const = 0;
    /// Quiesces the devices: they start no new request, and requests in flight complete. Returns
    /// when all have completed; the vCPUs run meanwhile, so a later freeze() does not wait for a
    /// slow disk. Calls `check_cancelled` now and then while it waits, and fails with its error.
    /// Fails with busy if a disk takes too long. After an error the devices are not quiesced.
    virtual Status quiesce(const std::function<Status()>& check_cancelled) = 0;
    /// Undoes one quiesce(). The devices start requests again once no quiesce and no freeze is
    /// left. Never fails.
    virtual void unquiesce() = 0;
    /// Quiesces the devices, stops all vCPUs and holds host input until thaw(). Returns the time at
    /// which the first vCPU was asked to stop. After an error the machine runs on as before.
    virtual Result<std::chrono::steady_clock::time_point> freeze() = 0;
    /// Undoes one freeze(). Never fails, because a failed snapshot must not leave the guest
    /// stopped. Returns the time at which the last vCPU was running again. The call itself may
    /// return later: a woken vCPU may have taken this thread's processor.
    virtual std::chrono::steady_clock::time_point thaw() = 0;
    /// Returns the state of the frozen machine, without its memory.
    virtual Result<SavedMachine> save() = 0;
    /// Returns the memory blocks. Their contents may change unless the machine is frozen.
    [[nodiscard]] virtual const GuestMemory& memory() const = 0;
    /// Returns the feed of the pages that are written; null if this host cannot track them.
    [[nodiscard]] virtual DirtyFeed* dirty() = 0;
    /// Whether the guest can be asked which pages it does not use.
    [[nodiscard]] virtual bool can_tell_free_pages() const = 0;
    /// Adds the pages that the guest does not use to `into`. Their contents do not matter until the
    /// guest writes to them, which it may do at once. Waits for the guest's answer, for a limited
    /// time.
    virtual void add_free_pages(DirtySet& into) = 0;
    /// Has the guest's balloon take memory that the guest has free, at most `max_bytes` bytes,
    /// until give_back(). Returns how many bytes it took: 0 if the guest cannot be asked. Waits for
    /// the guest, for a limited time, and calls `check_cancelled` as quiesce() does. A machine
    /// restored from a state saved meanwhile gives the memory back to its guest by itself.
    virtual Result<std::uint64_t> release_free(std::uint64_t max_bytes,
                                               const std::function<Status()>& check_cancelled) = 0;
    /// Lets the guest have the memory back that release_free() took. Idempotent; never fails. While
    /// the machine is frozen it returns at once, and the guest gets the memory with the thaw. While
    /// pages are write-protected it must not be called on a running machine: it takes a device's
    /// lock, and the lock's holder may wait in a page fault for the thread that makes the snapshot.
    virtual void give_back() = 0;
};

/// Calls give_back() when it is destroyed.
class ReleaseGuard {
public:
    explicit ReleaseGuard(SnapshotSource& source) : source_(source) {}
    ReleaseGuard(const ReleaseGuard&) = delete;
    ReleaseGuard& operator=(const ReleaseGuard&) = delete;
    ~ReleaseGuard() { source_.give_back(); }

private:
    SnapshotSource& source_;
};

/// Keeps a machine's devices quiesced until it is destroyed.
class QuiesceGuard {
public:
    static Result<QuiesceGuard> quiesce(SnapshotSource& source, const std::function<Status()>& check_cancelled) {
        if (Status status = source.quiesce(check_cancelled); !status) {
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

/// Keeps a machine frozen until it is thawed, released or destroyed.
class FreezeGuard {
public:
    /// Freezes a machine whose devices are not quiesced yet. The guest runs until they are.
    static Result<FreezeGuard> freeze(SnapshotSource& source) {
        const auto since = source.freeze();
        if (!since) {
            return fail(since.error());
        }
        return FreezeGuard(source, *since);
    }
    /// Freezes a machine and ends the quiesce of `quiet`. The devices start requests again with the
    /// thaw.
    static Result<FreezeGuard> freeze(QuiesceGuard quiet) { return freeze(*quiet.source_); }
    FreezeGuard(FreezeGuard&& other) noexcept : source_(std::exchange(other.source_, nullptr)), since_(other.since_) {}
    FreezeGuard& operator=(FreezeGuard&&) = delete;
    ~FreezeGuard() { thaw(); }

    /// Returns the time at which the first vCPU was asked to stop.
    [[nodiscard]] std::chrono::steady_clock::time_point since() const { return since_; }
    /// Thaws the machine. Returns the time at which the last vCPU was running again.
    std::chrono::steady_clock::time_point thaw() {
        SnapshotSource* source = std::exchange(source_, nullptr);
        return source != nullptr ? source->thaw() : std::chrono::steady_clock::now();
    }
    /// Leaves the machine frozen. The caller must stop it or thaw it.
    void release() { source_ = nullptr; }

private:
    FreezeGuard(SnapshotSource& source, std::chrono::steady_clock::time_point since)
        : source_(&source), since_(since) {}
    SnapshotSource* source_;
    std::chrono::steady_clock::time_point since_;
};

}  // namespace snapvm
