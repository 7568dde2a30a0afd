// SPDX-License-Identifier: Apache-2.0
#include "snapshot/format/page_entry.h"

#include <array>
#include <string>

#include "vmm/base/crc32c.h"

namespace snapvm {
namespace {

constexpr unsigned kSharesShift = 16;
constexpr std::uint64_t kSharesMask = (1ULL << 40) - 1;
constexpr unsigned kChecksumShift = 32;

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
    const std::array<std::uint64_t, 2> salt = {static_cast<std::uint64_t>(block), page};
    return crc32c(bytes, crc32c(std::as_bytes(std::span(salt))));
}

}  // namespace snapvm
