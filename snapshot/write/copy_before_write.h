// SPDX-License-Identifier: Apache-2.0
// Copies pages as they were at the pause while the guest runs again: each page before its first
// write. Used if rounds cannot catch up with the guest.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "snapshot/write/job.h"
#include "snapshot/write/staging.h"
#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/write_protector.h"

namespace snapvm {

/// Hooks for tests of how threads interleave.
struct CopyHooks {
    std::function<void()> fault_read = [] {};  ///< called by the faults thread between reading a fault and handling it
    std::function<void()> protecting = [] {};  ///< called by protect() when everything is protected
};

/// Call prepare() and protect_ahead() while the guest runs, protect() while it stands still, and
/// copy() while it runs again. During copy(), a write of the guest to a page that is not saved yet
/// saves the 2 MiB around it at once; the vCPU waits for that copy only, if the open store has
/// room. There are two stores: one fills while the other is written to the destination. If the open
/// store is full, the vCPU waits for the destination. May be destroyed at any time: vCPUs that wait
/// then continue. One thread calls the functions; the thread of the memory's FaultService answers
/// the faults.
class CopyBeforeWrite final : private FaultHandler {
public:
    /// Creates the stores and registers the memory. `store_pages`: room for saved pages; both
    /// stores together have at least 16 MiB. Fails with unsupported as WriteProtector::over() does.
    /// The memory outlives the object.
    static Result<std::unique_ptr<CopyBeforeWrite>> prepare(const GuestMemory& memory, std::uint64_t store_pages,
                                                            CopyHooks hooks = {});
    CopyBeforeWrite(const CopyBeforeWrite&) = delete;
    CopyBeforeWrite& operator=(const CopyBeforeWrite&) = delete;
    ~CopyBeforeWrite() override = default;

    /// Protects those of `pages` that are not protected yet, so that less is left to the pause: KVM
    /// takes about 25 µs for 2 MiB. A write of the guest removes the protection again. Returns how
    /// many units of 2 MiB it has protected.
    Result<std::uint64_t> protect_ahead(const DirtySet& pages);
    /// Protects `pages`. From here on none of them changes before it is saved. The guest stands
    /// still.
    Status protect(DirtySet pages);
    /// Has `job` write all pages. Returns when they are on the disk and no page is protected any
    /// more.
    Status copy(SnapshotJob& job);
    [[nodiscard]] std::uint64_t peak_pages() const { return stores_[0].peak() + stores_[1].peak(); }

private:
    CopyBeforeWrite(const GuestMemory& memory, std::array<Staging, 2> stores, CopyHooks hooks);
    struct Unit {
        std::size_t block = 0;
        std::uint64_t first = 0;  ///< page
        friend bool operator==(const Unit&, const Unit&) = default;
    };
    Result<bool> answer(const Fault& fault) override;
    void failed(const Error& error) override;
    Result<std::uint64_t> protect_units(const DirtySet& pages, const std::function<void()>& between);
    Status write_stores(SnapshotJob& job);
    [[nodiscard]] std::optional<Unit> next_unit();
    [[nodiscard]] bool has_room(const Unit& unit) const;
    Status save(const Unit& unit);
    Status save_waiting();
    Status release(const Unit& unit);

    std::span<const MemoryBlock> blocks_;
    CopyHooks hooks_;

    std::mutex mutex_;  // guards the members from stores_ to failure_; innermost
    std::array<Staging, 2> stores_;  // the store that is not open belongs to the thread in copy()
    unsigned open_ = 0;
    std::vector<std::vector<bool>> protected_;  ///< by block and unit
    bool taken_ = false;  ///< set by protect(): from here on a fault saves pages
    DirtySet unsaved_;
    Unit cursor_;  ///< no unit before it is unsaved
    std::vector<Unit> waiting_;  ///< units whose writers wait until the open store has room
    std::optional<Error> failure_;  ///< why faults are no longer answered

    std::unique_ptr<WriteProtector> protector_;  ///< destroyed first: no fault comes after that
};

}  // namespace snapvm
