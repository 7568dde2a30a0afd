// SPDX-License-Identifier: Apache-2.0
#include "snapshot/classify.h"

#include <algorithm>
#include <optional>

#include "snapshot/superblock.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// What the page-type table settles without a look at the page.
std::optional<PageClass> class_by_type(PageType type) {
    switch (type) {
        case PageType::balloon: return PageClass::balloon;
        case PageType::free: return PageClass::free;
        case PageType::normal:
        case PageType::swapped: break;
    }
    return std::nullopt;
}

PageEntry classify_contents(const MemoryBlock& block, std::uint64_t page) {
    const std::span<const std::byte> bytes = block.page(page);
    if (is_all_zero(bytes)) {
        return {PageClass::zero};
    }
    return {PageClass::common, page_checksum(block.spec().id, page, bytes)};
}

}  // namespace

Status Classifier::classify(const MemoryBlock& block, std::uint64_t first, std::span<PageEntry> out) {
    population_.resize(out.size());
    TRY(scanner_.scan(block, first, population_));
    const bool inherits = block.origin() != nullptr && std::ranges::find(population_, Population::untouched) != population_.end();
    if (inherits) {
        origin_.resize(out.size());
        TRY(block.origin()->read_entries(block.spec().id, first, origin_));
    }
    const bool typed = block.types().touched();
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::uint64_t page = first + i;
        if (const auto known = typed ? class_by_type(block.types().get(page)) : std::nullopt) {
            out[i] = {*known};
        } else if (population_[i] == Population::own) {
            out[i] = classify_contents(block, page);
        } else if (!inherits) {
            out[i] = {};
        } else if (origin_[i].page_class == PageClass::shared) {
            // A shared entry carries no checksum of its own to hand on.
            out[i] = classify_contents(block, page);
        } else {
            out[i] = {origin_[i].page_class, origin_[i].checksum};
        }
    }
    return {};
}

}  // namespace snapvm
