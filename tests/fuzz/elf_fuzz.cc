// SPDX-License-Identifier: Apache-2.0
// Any bytes as an ELF file for the reader and the loader. The result is an error, or a guest that
// is within its memory.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "vmm/boot/elf.h"
#include "vmm/boot/loader.h"
#include "vmm/platform/platform.h"

namespace {

using namespace snapvm;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

constexpr std::uint64_t kMemory = 4 << 20;

GuestMemory small_memory() {
    std::vector<MemoryBlock> blocks;
    blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kMemory}, PagePolicy::small_pages));
    blocks.push_back(*MemoryBlock::anonymous({BlockId::firmware, platform::kFirmwareBase, platform::kFirmwareSize},
                                             PagePolicy::small_pages));
    return *GuestMemory::of(std::move(blocks));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // What is written stays in memory: only writes outside of it matter here.
    static GuestMemory memory = small_memory();
    const auto file = std::as_bytes(std::span(data, size));
    const auto image = ElfImage::parse(file);
    for (const int protocol : {0, 1, 2}) {
        const auto entry = load_guest(memory, {.kernel = file,
                                               .initrds = {file.first(size / 2), file.subspan(size / 2)},
                                               .cmdline = "fuzz",
                                               .cpus = 1 + static_cast<std::uint32_t>(size % 64),
                                               .force_pvh = protocol == 1,
                                               .force_linux64 = protocol == 2});
        if (entry) {
            require(image.has_value());
            require(entry->rip >= platform::kOneMiB.value && entry->rip < kMemory);
        }
    }
    if (image) {
        for (const ElfSegment& segment : image->segments) {
            require(segment.bytes.size() <= segment.memory_size);
            require(segment.bytes.empty() || (segment.bytes.data() >= file.data() &&
                                              segment.bytes.data() + segment.bytes.size() <= file.data() + size));
        }
    }
    return 0;
}
