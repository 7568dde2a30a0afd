// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/classify.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <optional>

#include "snapshot/format/superblock.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Returns the class of a page without contents, by its type in the page-type table; nothing if the
// type does not determine one.
std::optional<PageClass> class_by_type(PageType type) {
    switch (type) {
        case PageType::balloon: return PageClass::balloon;
        case PageType::free: return PageClass::free;
        case PageType::normal:
        case PageType::swapped:
        case PageType::returned: break;
    }
    return std::nullopt;
}

PageHash hash_of(std::span<const std::byte> bytes) {
    const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
    return {hash.low64, hash.high64};
}

}  // namespace

PageFacts classify_page(BlockId block, std::uint64_t page, std::span<const std::byte> bytes, PageType type) {
    if (is_all_zero(bytes)) {
        return {{class_by_type(type).value_or(PageClass::zero)}, {}};
    }
    return {{PageClass::common, page_checksum(block, page, bytes)}, hash_of(bytes)};
}

Status Classifier::classify(const MemoryBlock& block, std::uint64_t first, std::span<PageFacts> out) {
    population_.resize(out.size());
    TRY(scanner_.scan(block, first, population_));
    const bool inherits =
        block.origin() != nullptr && std::ranges::find(population_, Population::untouched) != population_.end();
    if (inherits) {
        origin_.resize(out.size());
        TRY(block.origin()->read_entries(block.spec().id, first, origin_));
    }
    const BlockId id = block.spec().id;
    const bool typed = block.types().touched();
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::uint64_t page = first + i;
        const PageType type = typed ? block.types().get(page) : PageType::normal;
        const bool inherited = inherits && !block.emptied(page);
        if (population_[i] == Population::own) {
            out[i] = classify_page(id, page, block.page(page), type);
        } else if (const auto known = class_by_type(type)) {
            out[i] = {{*known}, {}};
        } else if (!inherited || (type == PageType::returned && !has_data(origin_[i].page_class))) {
            out[i] = {};
        } else {
            // Which pages are shared is found anew when all are known (page_table.h).
            const bool shared = origin_[i].page_class == PageClass::shared;
            out[i].entry = {shared ? PageClass::common : origin_[i].page_class, origin_[i].checksum};
            out[i].hash = has_data(origin_[i].page_class) ? hash_of(block.page(page)) : PageHash{};
        }
    }
    return {};
}

}  // namespace snapvm
