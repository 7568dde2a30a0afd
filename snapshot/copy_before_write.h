// SPDX-License-Identifier: Apache-2.0
// Copies pages as they were at the pause while the guest runs again: each one before its first write. For what rounds cannot catch up
// with (design.md, "Taking it live").
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "snapshot/attempt.h"
#include "snapshot/staging.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/memory/dirty_set.h"
#include "vmm/memory/write_protector.h"

namespace snapvm {

/// For tests: called where threads meet.
struct CopyHooks {
    std::function<void()> fault_read = [] {};  ///< by the service, which then looks at the fault
    std::function<void()> protecting = [] {};  ///< by `protect`, before it is the instant
};

/// In this order: prepare and protect_ahead, while the guest runs; protect, while it stands; copy, while it runs again. Then a page that
/// the guest wants to write is saved at once, with the 2 MiB around it, and the guest waits for that copy alone, as long as there is room: two stores take
/// turns, one fills while the other is written. Where they are full, the guest waits for the disk. Dropped at any time: who waits goes on.
class CopyBeforeWrite {
public:
    /// `store_pages`: room for saved pages; at least 16 MiB are taken. ErrorKind::unsupported: see WriteProtector::over.
    static Result<std::unique_ptr<CopyBeforeWrite>> prepare(std::span<const MemoryBlock> blocks, std::uint64_t store_pages,
                                                            CopyHooks hooks = {});
    CopyBeforeWrite(const CopyBeforeWrite&) = delete;
    CopyBeforeWrite& operator=(const CopyBeforeWrite&) = delete;
    ~CopyBeforeWrite();

    /// Protects what is not protected of `pages`, so that less is left to the pause: KVM takes some 25 µs for 2 MiB. Writing to it takes
    /// the protection away again. Returns how many times 2 MiB it was.
    Result<std::uint64_t> protect_ahead(const DirtySet& pages);
    /// From here on nobody changes these pages before they are saved.
    Status protect(DirtySet pages);
    /// Has `attempt` write them all; returns when they are on the disk, and nothing is protected any more.
    Status copy(Attempt& attempt);
    [[nodiscard]] std::uint64_t peak_pages() const { return stores_[0].peak() + stores_[1].peak(); }

private:
    CopyBeforeWrite(std::span<const MemoryBlock> blocks, WriteProtector protector, std::array<Staging, 2> stores, UniqueFd stop);
    struct Unit {
        std::size_t block = 0;
        std::uint64_t first = 0;  ///< page
    };
    Result<std::uint64_t> protect_units(const DirtySet& pages, const std::function<void()>& between);
    Status start_service();
    Status serve();
    Status write_stores(Attempt& attempt);
    [[nodiscard]] std::optional<Unit> next_unit();
    [[nodiscard]] bool has_room(const Unit& unit) const;
    Status save(const Unit& unit);
    Status release(const Unit& unit);
    void end_service();

    std::span<const MemoryBlock> blocks_;
    WriteProtector protector_;
    CopyHooks hooks_;

    std::mutex mutex_;  // guards the eight below; innermost
    std::condition_variable changed_;
    std::array<Staging, 2> stores_;  // the one that is not open belongs to the thread in `copy`
    unsigned open_ = 0;
    std::vector<std::vector<bool>> protected_;  ///< by block and unit
    bool taken_ = false;  ///< the instant that is to be kept has come
    DirtySet unsaved_;
    Unit cursor_;  ///< nothing unsaved before it
    bool over_ = false;
    Status service_;  ///< how the thread ended

    UniqueFd stop_;  ///< eventfd
    std::thread service_thread_;
};

}  // namespace snapvm
