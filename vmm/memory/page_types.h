// SPDX-License-Identifier: Apache-2.0
// Records what the guest gave up, which only the VMM knows: one byte for each page. The code that
// takes pages from the guest, or gives them back, keeps it up to date.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "vmm/base/error.h"
#include "vmm/memory/mapping.h"

namespace snapvm {

/// What the VMM knows of a page besides its contents. balloon and free are claims: a guest may use
/// a page that it reported free, or that is in its balloon, without telling the VMM. So a snapshot
/// believes them only if the page's bytes are zeros, as they were when the page was given up
/// (snapshot/write/classify.h).
enum class PageType : std::uint8_t {
    normal = 0,  ///< the guest's own
    balloon = 1,  ///< inflated into the balloon
    free = 2,  ///< reported free
    swapped = 3,  ///< evicted to the swap file
    returned = 4,  ///< the guest's own again; the snapshot that this machine came from may still list it as given up
};

/// The page types of one memory block. Pages are numbered within the block. Each entry is one
/// atomic byte, so that a device on any thread writes while a snapshot reads; a reader sees the old
/// or the new value.
class PageTypes {
public:
    /// Makes a table in which every page is normal. It costs neither memory nor time until a page
    /// is set: normal is 0, and an untouched mapping reads as zeros.
    static Result<PageTypes> of(std::uint64_t pages);

    [[nodiscard]] PageType get(std::uint64_t page) const;
    void set(std::uint64_t page, PageType type);
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    /// Returns whether any page ever had a type other than normal. If not, a snapshot skips the
    /// table.
    [[nodiscard]] bool touched() const { return touched_->load(std::memory_order_acquire); }

private:
    PageTypes(std::uint64_t pages, Mapping table);
    [[nodiscard]] std::atomic<PageType>* table() const {
        return reinterpret_cast<std::atomic<PageType>*>(table_.data());
    }

    std::uint64_t pages_;
    Mapping table_;
    std::unique_ptr<std::atomic<bool>> touched_;
};

}  // namespace snapvm
