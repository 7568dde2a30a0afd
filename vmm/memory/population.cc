// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/population.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
constexpr std::uint64_t kPresent = 1ULL << 63;
constexpr std::uint64_t kSwapped = 1ULL << 62;
constexpr std::uint64_t kFileOrShared = 1ULL << 61;

Status scan_memfd(const MemoryBlock& block, std::uint64_t first, std::span<Population> out) {
    std::ranges::fill(out, Population::untouched);
    const std::uint64_t end = (first + out.size()) * kPageSize;
    std::uint64_t at = first * kPageSize;
    while (at < end) {
        const off_t data = ::lseek(block.memfd_fd(), static_cast<off_t>(at), SEEK_DATA);
        if (data < 0) {
            if (errno == ENXIO) {
                break;  // no data from here to the end
            }
            return fail(Error::system("lseek SEEK_DATA", name_of(block.spec().id), errno));
        }
        const off_t hole = ::lseek(block.memfd_fd(), data, SEEK_HOLE);
        if (hole < 0) {
            return fail(Error::system("lseek SEEK_HOLE", name_of(block.spec().id), errno));
        }
        const std::uint64_t from = align_down(static_cast<std::uint64_t>(data), kPageSize);
        const std::uint64_t to = std::min<std::uint64_t>(align_up(static_cast<std::uint64_t>(hole), kPageSize), end);
        for (std::uint64_t page = from / kPageSize; page * kPageSize < to; ++page) {
            out[page - first] = Population::own;
        }
        at = static_cast<std::uint64_t>(hole);
    }
    return {};
}

}  // namespace

Population population_of_pagemap_entry(std::uint64_t entry, MemoryBlock::Backing backing) {
    if ((entry & kSwapped) != 0) {
        // Of a private file mapping only anonymous copies are swapped, so this holds for every
        // backing.
        return Population::own;
    }
    if ((entry & kPresent) == 0) {
        return Population::untouched;
    }
    // A present page of a private file mapping that still belongs to the file has the snapshot's
    // contents.
    const bool still_the_files = backing == MemoryBlock::Backing::snapshot && (entry & kFileOrShared) != 0;
    return still_the_files ? Population::untouched : Population::own;
}

Result<PopulationScanner> PopulationScanner::open() {
    auto fd = open_file("/proc/self/pagemap", O_RDONLY);
    if (!fd && fd.error().code() == ENOENT) {
        return PopulationScanner(UniqueFd());  // a root without /proc
    }
    return PopulationScanner(TRY(std::move(fd)));
}

Status PopulationScanner::scan(const MemoryBlock& block, std::uint64_t first, std::span<Population> out) const {
    if (first > block.spec().pages() || out.size() > block.spec().pages() - first) {
        return fail(ErrorKind::invalid,
                    "the pages to scan are outside of block " + std::string(name_of(block.spec().id)));
    }
    if (block.backing() == MemoryBlock::Backing::memfd) {
        return scan_memfd(block, first, out);
    }
    if (!pagemap_.valid()) {
        std::ranges::fill(out, Population::own);
        return {};
    }
    std::array<std::uint64_t, 4096> entries;
    const std::uint64_t base = reinterpret_cast<std::uintptr_t>(block.host()) / kPageSize + first;
    for (std::size_t done = 0; done < out.size();) {
        const std::size_t count = std::min(entries.size(), out.size() - done);
        TRY(read_exactly_at(pagemap_.get(), std::as_writable_bytes(std::span(entries).first(count)),
                            (base + done) * sizeof(std::uint64_t), "/proc/self/pagemap"));
        for (std::size_t i = 0; i < count; ++i) {
            out[done + i] = population_of_pagemap_entry(entries[i], block.backing());
        }
        done += count;
    }
    return {};
}

}  // namespace snapvm
