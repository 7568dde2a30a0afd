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
#include "tests/support/sign_area.h"

namespace {

using namespace snapvm;

// Page entries are far behind the part of an area that a seed holds. The bytes after that part are
// used as the entries of RAM.
void place_entries(std::vector<std::byte>& area) {
    constexpr std::size_t kSeed = 20480;
    if (area.size() <= kSeed) {
        return;
    }
    test::sign_area(area);
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
        test::sign_area(area);
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
