// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/page_types.h"

#include <algorithm>

#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {

static_assert(sizeof(std::atomic<PageType>) == 1, "one byte a page");

PageTypes::PageTypes(std::uint64_t pages, Mapping table)
    : pages_(pages), table_(std::move(table)), touched_(std::make_unique<std::atomic<bool>>(false)) {}

Result<PageTypes> PageTypes::of(std::uint64_t pages) {
    return PageTypes(pages, TRY(Mapping::anonymous(align_up(std::max<std::uint64_t>(pages, 1), kPageSize), kPageSize)));
}

PageType PageTypes::get(std::uint64_t page) const {
    return page < pages_ ? table()[page].load(std::memory_order_acquire) : PageType::normal;
}

void PageTypes::set(std::uint64_t page, PageType type) {
    if (page < pages_) {
        table()[page].store(type, std::memory_order_release);
        if (type != PageType::normal) {
            touched_->store(true, std::memory_order_release);
        }
    }
}

}  // namespace snapvm
