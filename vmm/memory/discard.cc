// SPDX-License-Identifier: Apache-2.0
// Gives memory back to the host, in a way that depends on the backing. On a private file mapping
// MADV_DONTNEED alone is not enough: the page would read as the file's data again, not as zeros.
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "vmm/base/try.h"
#include "vmm/memory/block.h"

namespace snapvm {

Status MemoryBlock::discard(std::uint64_t first, std::uint64_t count, PageType type) {
    if (first > spec_.pages() || count > spec_.pages() - first) {
        return fail(ErrorKind::invalid, "the pages to discard are outside of block " + std::string(name_of(spec_.id)));
    }
    Status discarded = discard(first, count);
    if (discarded) {
        for (std::uint64_t page = first; page < first + count; ++page) {
            types_.set(page, type);
        }
    }
    marks_.mark(first, count);  // even if it failed, since a part of the pages may be gone
    return discarded;
}

void MemoryBlock::reclaim(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t end = first < spec_.pages() ? first + std::min(count, spec_.pages() - first) : first;
    for (std::uint64_t page = first; page < end; ++page) {
        types_.set(page, emptied_ ? PageType::returned : PageType::normal);
    }
    marks_.mark(first, end - first);
}

Status MemoryBlock::discard(std::uint64_t first, std::uint64_t count) {
    switch (backing_) {
        case Backing::anonymous: return drop(first, count);
        case Backing::memfd:
            if (::fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(first * kPageSize), static_cast<off_t>(count * kPageSize)) != 0) {
                return fail(Error::system("fallocate", name_of(spec_.id), errno));
            }
            return {};
        case Backing::snapshot: return discard_of_snapshot(first, count);
    }
    return {};
}

Status MemoryBlock::drop(std::uint64_t first, std::uint64_t count) {
    if (::madvise(host() + first * kPageSize, count * kPageSize, MADV_DONTNEED) != 0) {
        return fail(Error::system("madvise", name_of(spec_.id), errno));
    }
    return {};
}

// Replaces whole 2 MiB units by anonymous memory. Smaller ranges keep their mapping, since one more
// mapping for each could exceed the limit of the process (max_map_count).
Status MemoryBlock::discard_of_snapshot(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t end = first + count;
    while (first < end) {
        const bool whole = first % kUnitPages == 0 && end - first >= kUnitPages;
        const std::uint64_t part =
            whole ? align_down(end - first, kUnitPages) : std::min(end - first, kUnitPages - first % kUnitPages);
        if (!whole || !empty_units(first, part)) {
            for (std::uint64_t at = first; at < first + part; at += kUnitPages - at % kUnitPages) {
                TRY(drop_or_zero(at, std::min(kUnitPages - at % kUnitPages, first + part - at)));
            }
        }
        first += part;
    }
    return {};
}

bool MemoryBlock::empty_units(std::uint64_t first, std::uint64_t count) {
    void* mapped = ::mmap(host() + first * kPageSize, count * kPageSize, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) {
        return false;  // too many mappings; the old one is intact
    }
    (void)::madvise(mapped, count * kPageSize, MADV_HUGEPAGE);  // as for the overlays of a restore
    for (std::uint64_t unit = first / kUnitPages; unit < (first + count) / kUnitPages; ++unit) {
        emptied_[unit].store(true, std::memory_order_release);
    }
    return true;
}

// Discards pages of one unit. A page without data in the snapshot reads as zeros in its file
// (FORMAT.md), so it is dropped. A page with data is overwritten with zeros: that keeps one host
// page, but a mapping for each such page would exceed max_map_count.
Status MemoryBlock::drop_or_zero(std::uint64_t first, std::uint64_t count) {
    if (emptied(first) || overlaid(first, count)) {
        return drop(first, count);
    }
    std::array<PageOrigin::Entry, kUnitPages> entries;
    const auto known = std::span(entries).first(count);
    if (origin_) {
        TRY(origin_->read_entries(spec_.id, first, known));
    }
    for (std::uint64_t i = 0; i < count;) {
        const bool data = !origin_ || has_data(known[i].page_class);
        std::uint64_t run = 1;
        while (i + run < count && data == (!origin_ || has_data(known[i + run].page_class))) {
            ++run;
        }
        if (data) {
            std::memset(host() + (first + i) * kPageSize, 0, run * kPageSize);
        } else {
            TRY(drop(first + i, run));
        }
        i += run;
    }
    return {};
}

}  // namespace snapvm
