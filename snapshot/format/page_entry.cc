// SPDX-License-Identifier: Apache-2.0
#include "snapshot/format/page_entry.h"

#include <array>
#include <string>
#include <vector>

#include "vmm/base/crc32c.h"

namespace snapvm {
namespace {

constexpr unsigned kSharesShift = 16;
constexpr std::uint64_t kSharesMask = (1ULL << 40) - 1;
constexpr unsigned kChecksumShift = 32;

std::uint32_t salt_of(PagePlace place) {
    const std::array<std::uint64_t, 2> salt = {static_cast<std::uint64_t>(place.block), place.page};
    return crc32c(std::as_bytes(std::span(salt)));
}

// What each bit of the difference of two salts becomes behind a page.
std::array<std::uint32_t, 32> moved_bits() {
    const std::vector<std::byte> zeros(kPageSize);
    std::array<std::uint32_t, 32> moved{};
    for (unsigned bit = 0; bit < moved.size(); ++bit) {
        moved[bit] = crc32c(zeros, 1U << bit) ^ crc32c(zeros);
    }
    return moved;
}

}  // namespace

std::uint64_t PageEntry::encode() const {
    const auto low = static_cast<std::uint64_t>(page_class);
    if (page_class == PageClass::shared) {
        return low | (shares & kSharesMask) << kSharesShift;
    }
    return has_data(page_class) ? low | std::uint64_t{checksum} << kChecksumShift : low;
}

Result<PageEntry> PageEntry::decode(std::uint64_t raw) {
    const std::uint64_t number = raw & 0xFF;
    PageEntry entry;
    if (number < kPageClassCount) {
        entry.page_class = static_cast<PageClass>(number);
        entry.shares = entry.page_class == PageClass::shared ? raw >> kSharesShift & kSharesMask : 0;
        const bool checked = has_data(entry.page_class) && entry.page_class != PageClass::shared;
        entry.checksum = checked ? static_cast<std::uint32_t>(raw >> kChecksumShift) : 0;
        if (entry.encode() == raw) {
            return entry;
        }
    }
    return fail(ErrorKind::invalid,
                "the page entry has the unknown class " + std::to_string(number) + ", or reserved bits in use");
}

std::uint32_t page_checksum(BlockId block, std::uint64_t page, std::span<const std::byte> bytes) {
    return crc32c(bytes, salt_of({block, page}));
}

std::uint32_t checksum_at(PagePlace to, PagePlace from, std::uint32_t checksum) {
    static const std::array<std::uint32_t, 32> moved = moved_bits();
    const std::uint32_t difference = salt_of(to) ^ salt_of(from);
    for (unsigned bit = 0; bit < moved.size(); ++bit) {
        checksum ^= moved[bit] & (0U - (difference >> bit & 1));
    }
    return checksum;
}

}  // namespace snapvm
