// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/page_types.h"

#include <cstdlib>
#include <new>

namespace snapvm {

static_assert(sizeof(std::atomic<PageType>) == 1, "one byte a page");

void PageTypes::Free::operator()(std::atomic<PageType>* table) const { std::free(table); }

PageTypes::PageTypes(std::uint64_t pages) : pages_(pages), touched_(std::make_unique<std::atomic<bool>>(false)) {
    // calloc rather than new[]: a table for 4 GiB is 1 MiB, and most machines never write to it.
    void* raw = std::calloc(pages == 0 ? 1 : pages, sizeof(std::atomic<PageType>));
    if (raw == nullptr) {
        throw std::bad_alloc();
    }
    table_.reset(static_cast<std::atomic<PageType>*>(raw));
}

PageType PageTypes::get(std::uint64_t page) const {
    return page < pages_ ? table_[page].load(std::memory_order_acquire) : PageType::normal;
}

void PageTypes::set(std::uint64_t page, PageType type) {
    if (page < pages_) {
        table_[page].store(type, std::memory_order_release);
        if (type != PageType::normal) {
            touched_->store(true, std::memory_order_release);
        }
    }
}

}  // namespace snapvm
