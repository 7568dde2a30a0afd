// SPDX-License-Identifier: Apache-2.0
// Any bytes as an area, for restore, inspect and verify. If the input's last byte has bit 0 set,
// checksums are corrected first, so that the fuzzer gets past them.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "snapshot/format/page_entry.h"
#include "snapshot/format/sections.h"
#include "snapshot/format/superblock.h"
#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "snapshot/restore/restore.h"
#include "vmm/base/crc32c.h"

namespace {

using namespace snapvm;

void put_crc(std::vector<std::byte>& area, std::size_t at, std::uint32_t crc) {
    std::memcpy(area.data() + at, &crc, sizeof crc);
}

// Signs the sections first, then the table over them, then the header over that.
void sign(std::vector<std::byte>& area) {
    for (std::size_t base = 0; base + kSuperblockSize <= area.size() && base < kSlotsStart; base += kSuperblockSize) {
        const auto table = std::span(area).subspan(base + kSuperblockHeaderSize, kSectionTableSize);
        for (std::size_t line = 0; line + 40 <= table.size(); line += 40) {
            std::uint32_t kind = 0;
            std::uint64_t offset = 0;
            std::uint64_t length = 0;
            std::memcpy(&kind, table.data() + line, sizeof kind);
            std::memcpy(&offset, table.data() + line + 8, sizeof offset);
            std::memcpy(&length, table.data() + line + 24, sizeof length);
            const bool whole = offset <= area.size() && length <= area.size() - offset;
            if (kind != 0 && kind != static_cast<std::uint32_t>(SectionKind::data) && whole) {
                put_crc(area, base + kSuperblockHeaderSize + line + 32,
                        crc32c(std::span(area).subspan(offset, length)));
            }
        }
        put_crc(area, base + 116, crc32c(table));
        put_crc(area, base + kSuperblockHeaderSize - 4,
                crc32c(std::span(area).subspan(base, kSuperblockHeaderSize - 4)));
    }
}

// Page entries are far behind the part of an area that a seed holds. The bytes after that part are
// used as the entries of RAM.
void place_entries(std::vector<std::byte>& area) {
    constexpr std::size_t kSeed = 20480;
    if (area.size() <= kSeed) {
        return;
    }
    sign(area);
    const auto superblock = Superblock::decode(std::span(area).first(kSuperblockSize), "seed");
    const Section* entries =
        superblock ? superblock->find(SectionKind::entries, static_cast<std::uint32_t>(BlockId::ram_low)) : nullptr;
    if (entries == nullptr || entries->offset < kSeed || entries->offset > 8 << 20 || entries->length > 64 << 10) {
        return;
    }
    const std::vector<std::byte> words(area.begin() + kSeed, area.end());
    area.resize(kSeed);
    area.resize(entries->offset + entries->length);
    std::ranges::copy(std::span(words).first(std::min<std::size_t>(words.size(), entries->length)),
                      area.begin() + static_cast<std::ptrdiff_t>(entries->offset));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto input = std::as_bytes(std::span(data, size));
    const std::vector<BlockSpec> blocks = {{BlockId::ram_low, Gpa{0}, 2ULL << 20},
                                           {BlockId::firmware, Gpa{0xE0000000}, 64ULL << 10}};
    (void)StartSection::decode(input);
    (void)decode_state(input);
    (void)decode_plan(input, blocks);
    (void)AreaPath::parse(std::string_view(reinterpret_cast<const char*>(data), size));

    static const int fd = ::memfd_create("area", MFD_CLOEXEC);
    std::vector<std::byte> area(input.begin(), input.end());
    if (size > 0 && (data[size - 1] & 4) != 0) {
        place_entries(area);
    }
    if (size > 0 && (data[size - 1] & 1) != 0) {
        sign(area);
    }
    if (fd < 0 || ::ftruncate(fd, 0) != 0 ||
        ::pwrite(fd, area.data(), area.size(), 0) != static_cast<ssize_t>(area.size())) {
        std::abort();
    }
    // Most inputs end within the first sections. The area is extended with zeros, as a sparse area
    // is.
    if (size > 1 && (data[size - 1] & 2) != 0 && ::ftruncate(fd, 16 << 20) != 0) {
        std::abort();
    }
    const AreaPath path{"/proc/self/fd/" + std::to_string(fd), 0};
    // Single pages are shared too, so that entries of any kind make runs.
    for (const RestoreOptions& options :
         {RestoreOptions{}, RestoreOptions{.share = true, .min_shared_bytes = kPageSize}}) {
        if (const auto restored = open_snapshot(path, options)) {
            // Memory that was accepted must be readable.
            for (const MemoryBlock& block : restored->memory.blocks()) {
                for (std::uint64_t page = 0; page < std::min<std::uint64_t>(block.spec().pages(), 512); ++page) {
                    volatile std::byte first = block.page(page).front();
                    (void)first;
                }
            }
        }
    }
    if (const auto info = inspect_area(path)) {
        (void)to_text(*info);
        (void)to_json(*info);
    }
    (void)verify_area(path);
    return 0;
}
