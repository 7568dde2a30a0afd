// SPDX-License-Identifier: Apache-2.0
// A page's checksum belongs to its place.
#include "snapshot/format/page_entry.h"

#include <gtest/gtest.h>

#include <vector>

namespace snapvm::test {
namespace {

TEST(PageChecksum, OfTheSameBytesElsewhereFollowsFromIt) {
    std::vector<std::byte> page(kPageSize);
    for (std::size_t i = 0; i < page.size(); ++i) {
        page[i] = static_cast<std::byte>(i * 7 + i / 256);
    }
    const PagePlace places[] = {{BlockId::ram_low, 0},
                                {BlockId::ram_low, 1},
                                {BlockId::ram_high, 0xFFFFFFFFFFULL},
                                {BlockId::vmgenid, 0},
                                {BlockId::firmware, 12345}};
    for (const PagePlace& from : places) {
        const std::uint32_t checksum = page_checksum(from.block, from.page, page);
        for (const PagePlace& to : places) {
            EXPECT_EQ(checksum_at(to, from, checksum), page_checksum(to.block, to.page, page));
        }
    }
}

}  // namespace
}  // namespace snapvm::test
