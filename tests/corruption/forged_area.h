// SPDX-License-Identifier: Apache-2.0
// A good area in memory, to be changed and signed again. What is wrong with it is then not a
// checksum.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "snapshot/format/sections.h"
#include "snapshot/format/superblock.h"
#include "tests/support/sign_area.h"
#include "tests/unit/snapshot/fixture.h"
#include "vmm/base/fd.h"

namespace snapvm::test {

class ForgedArea {
public:
    explicit ForgedArea(const std::string& path) {
        const std::string text = *read_file(path, 64U << 20);
        const auto all = std::as_bytes(std::span(text));
        bytes.assign(all.begin(), all.end());
        for (std::size_t i = 0; i < kSuperblockCopies; ++i) {
            superblocks[i] = *Superblock::decode(superblock_bytes(i), "superblock");
        }
        chosen = superblocks[0].sequence > superblocks[1].sequence ? 0 : 1;  // the newest, which is complete
    }

    [[nodiscard]] Superblock& sb() { return superblocks[chosen]; }
    [[nodiscard]] Section& section(SectionKind kind, BlockId block = {}) {
        return *std::ranges::find_if(sb().sections, [&](const Section& s) {
            return s.kind == kind && s.block == static_cast<std::uint32_t>(block);
        });
    }
    [[nodiscard]] std::span<std::byte> contents(SectionKind kind, BlockId block = {}) {
        const Section& found = section(kind, block);
        return std::span(bytes).subspan(found.offset, found.length);
    }
    void put(SectionKind kind, std::span<const std::byte> now) {
        section(kind).length = now.size();
        std::ranges::copy(now, bytes.begin() + static_cast<std::ptrdiff_t>(section(kind).offset));
    }
    /// Encodes the superblocks. Until write(), `bytes` may be changed as one likes.
    void encode() {
        encoded_ = true;
        for (std::size_t i = 0; i < kSuperblockCopies; ++i) {
            const auto header = superblocks[i].encode_header();
            std::ranges::copy(header, superblock_bytes(i).begin());
            if (superblocks[i].state == SlotState::complete) {
                const auto table = superblocks[i].encode_table();
                std::ranges::copy(table, superblock_bytes(i).begin() + kSuperblockHeaderSize);
            }
        }
    }
    /// Signs the area and writes it into a sparse file.
    void write(const std::string& path) {
        if (!encoded_) {
            encode();
        }
        sign_area(bytes);
        const UniqueFd fd = *open_file(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        ASSERT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes.size())), 0);
        for (std::size_t at = 0; at < bytes.size(); at += kPageSize) {
            const auto page = std::span(bytes).subspan(at, std::min<std::size_t>(kPageSize, bytes.size() - at));
            if (!is_all_zero(page)) {
                ASSERT_OK(write_all_at(fd.get(), page, at, path));
            }
        }
    }

    std::vector<std::byte> bytes;
    std::array<Superblock, kSuperblockCopies> superblocks;
    std::size_t chosen = 0;

private:
    [[nodiscard]] std::span<std::byte> superblock_bytes(std::size_t index) {
        return std::span(bytes).subspan(index * kSuperblockSize, kSuperblockSize);
    }
    bool encoded_ = false;
};

}  // namespace snapvm::test
