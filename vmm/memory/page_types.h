// SPDX-License-Identifier: Apache-2.0
// What the guest gave up is known only to the VMM: a byte a page, kept by whoever takes pages from the guest or gives them back.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "vmm/base/error.h"
#include "vmm/memory/mapping.h"

namespace snapvm {

/// What the VMM knows of a page beside its contents. balloon and free are claims: the guest may use a page that it has reported, or that is
/// in its balloon, without a word. So they hold for a snapshot only where the page's bytes are zeros, as they were when it was given up
/// (snapshot/classify.h).
enum class PageType : std::uint8_t {
    normal = 0,  ///< the guest's own
    balloon = 1,  ///< inflated into the balloon
    free = 2,  ///< reported free
    swapped = 3,  ///< evicted to the swap file
    returned = 4,  ///< the guest's own again, though the snapshot behind this machine may have it as given up
};

/// The page-type table of one memory block. Page numbers are the block's own. Each page is one atomic byte, so devices (vCPU threads)
/// write while a snapshot reads; a reader sees either value.
class PageTypes {
public:
    /// All normal. Untouched pages of the table cost neither memory nor time: a mapping's zeros, and normal is 0.
    static Result<PageTypes> of(std::uint64_t pages);

    [[nodiscard]] PageType get(std::uint64_t page) const;
    void set(std::uint64_t page, PageType type);
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    /// Whether any page was ever given a type other than normal: lets the usual snapshot skip the table.
    [[nodiscard]] bool touched() const { return touched_->load(std::memory_order_acquire); }

private:
    PageTypes(std::uint64_t pages, Mapping table);
    [[nodiscard]] std::atomic<PageType>* table() const { return reinterpret_cast<std::atomic<PageType>*>(table_.data()); }

    std::uint64_t pages_;
    Mapping table_;
    std::unique_ptr<std::atomic<bool>> touched_;
};

}  // namespace snapvm
