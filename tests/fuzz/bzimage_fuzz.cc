// SPDX-License-Identifier: Apache-2.0
// Any bytes as a bzImage. The unpacked output must be bounded; it is then read as an ELF file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf.h"
#include "vmm/boot/unpack.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace snapvm;
    constexpr std::uint64_t kLimit = 1 << 20;
    const auto file = std::as_bytes(std::span(data, size));
    if (const auto unpacked = unpack(file, kLimit); unpacked && unpacked->size() > kLimit) {
        std::abort();
    }
    if (is_bzimage(file)) {
        if (const auto kernel = unpack_bzimage(file)) {
            (void)ElfImage::parse(*kernel);
        }
    }
    return 0;
}
