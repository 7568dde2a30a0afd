// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/cache_policy.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <vector>

namespace snapvm {
namespace {

// Upper limits of cached page data, in bytes and as a part of free memory (DECISIONS.md, "Page
// cache").
constexpr std::uint64_t kCacheLimit = 256ULL << 20;
constexpr std::uint64_t kCacheShare = 4;

bool fits_the_cache(std::uint64_t bytes) {
    struct sysinfo info{};
    return bytes <= kCacheLimit && ::sysinfo(&info) == 0 &&
           bytes <= std::uint64_t{info.freeram} * info.mem_unit / kCacheShare;
}

// Returns the pages of a block that this process has populated, all of them if that cannot be read.
std::uint64_t resident_pages(const MemoryBlock& block, const PopulationScanner& scanner) {
    const std::uint64_t all = block.spec().pages();
    std::vector<Population> population(std::min<std::uint64_t>(all, 1U << 16));
    std::uint64_t resident = 0;
    for (std::uint64_t first = 0; first < all; first += population.size()) {
        const auto part = std::span(population).first(std::min<std::uint64_t>(population.size(), all - first));
        if (!scanner.scan(block, first, part)) {
            return all;
        }
        resident += static_cast<std::uint64_t>(std::ranges::count(part, Population::own));
    }
    return resident;
}

// Estimates the page data by the memory that this process has populated for the guest. What the
// guest has at the freeze is not known yet.
std::uint64_t resident_estimate(const GuestMemory& memory, const PopulationScanner& scanner) {
    std::uint64_t pages = 0;
    for (const MemoryBlock& block : memory.blocks()) {
        pages += resident_pages(block, scanner);
    }
    return pages * kPageSize;
}

}  // namespace

bool choose_cached(CachePolicy policy, const GuestMemory& memory, const PopulationScanner& scanner) {
    switch (policy) {
        case CachePolicy::cached: return true;
        case CachePolicy::direct: return false;
        case CachePolicy::automatic: break;
    }
    std::uint64_t all = 0;
    for (const MemoryBlock& block : memory.blocks()) {
        all += block.spec().size;
    }
    // The scan costs milliseconds for each GiB. Machines below the limit do without it.
    return fits_the_cache(all) || fits_the_cache(resident_estimate(memory, scanner));
}

}  // namespace snapvm
