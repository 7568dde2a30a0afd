// SPDX-License-Identifier: Apache-2.0
#include "snapshot/cache_policy.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <vector>

namespace snapvm {
namespace {

// What cached page data may take, and of the free memory: DECISIONS.md, "Page cache".
constexpr std::uint64_t kCacheLimit = 256ULL << 20;
constexpr std::uint64_t kCacheShare = 4;

bool fits_the_cache(std::uint64_t bytes) {
    struct sysinfo info{};
    return bytes <= kCacheLimit && ::sysinfo(&info) == 0 && bytes <= std::uint64_t{info.freeram} * info.mem_unit / kCacheShare;
}

// How much page data there can be at most: what the process holds of the guest is not known before the freeze.
std::uint64_t resident_estimate(const GuestMemory& memory, const PopulationScanner& scanner) {
    std::uint64_t pages = 0;
    std::vector<Population> population;
    for (const MemoryBlock& block : memory.blocks()) {
        population.resize(std::min<std::uint64_t>(block.spec().pages(), 1U << 16));
        for (std::uint64_t first = 0; first < block.spec().pages(); first += population.size()) {
            const auto part = std::span(population).first(std::min<std::uint64_t>(population.size(), block.spec().pages() - first));
            if (!scanner.scan(block, first, part)) {
                return block.spec().size;
            }
            pages += static_cast<std::uint64_t>(std::ranges::count(part, Population::own));
        }
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
    // The scan costs milliseconds a GiB, and only machines larger than the bound need it.
    return fits_the_cache(all) || fits_the_cache(resident_estimate(memory, scanner));
}

}  // namespace snapvm
