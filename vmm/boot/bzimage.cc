// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/bzimage.h"

#include <asm/bootparam.h>

#include <cstddef>
#include <cstring>
#include <string>

#include "vmm/base/try.h"
#include "vmm/boot/unpack.h"

namespace snapvm {
namespace {

constexpr std::size_t kHeaderAt = 0x1F1;
constexpr std::uint16_t kBootFlag = 0xAA55;
constexpr std::uint32_t kHeaderMagic = 0x53726448;  // "HdrS"
constexpr std::uint16_t kFirstWithPayload = 0x0208;
constexpr std::uint64_t kSector = 512;
constexpr unsigned kDefaultSetupSectors = 4;
// Debian's kernel with its debug information unpacks to 60 MiB.
constexpr std::uint64_t kMostUnpacked = 1ULL << 30;

std::unexpected<Error> bad(const std::string& why) {
    return fail(ErrorKind::invalid, "the kernel is not a usable bzImage: " + why,
                "give a bzImage of Linux 2.6.26 or later, or a vmlinux");
}

setup_header header_of(std::span<const std::byte> file) {
    setup_header header{};
    if (file.size() >= kHeaderAt + sizeof header) {
        std::memcpy(&header, file.data() + kHeaderAt, sizeof header);
    }
    return header;
}

}  // namespace

bool is_bzimage(std::span<const std::byte> file) {
    const setup_header header = header_of(file);
    return header.boot_flag == kBootFlag && header.header == kHeaderMagic;
}

Result<std::vector<std::byte>> unpack_bzimage(std::span<const std::byte> file) {
    const setup_header header = header_of(file);
    if (header.boot_flag != kBootFlag || header.header != kHeaderMagic) {
        return bad("it has no header");
    }
    if (header.version < kFirstWithPayload || (header.loadflags & LOADED_HIGH) == 0) {
        return bad("it is too old");
    }
    const std::uint64_t setup = (header.setup_sects == 0 ? kDefaultSetupSectors : header.setup_sects) + 1U;
    const std::uint64_t at = setup * kSector + header.payload_offset;
    if (at > file.size() || header.payload_length > file.size() - at) {
        return bad("it is truncated");
    }
    const auto payload = file.subspan(at, header.payload_length);
    // CONFIG_KERNEL_UNCOMPRESSED: the payload is the ELF file itself.
    constexpr std::string_view kElf{
        "\x7f"
        "ELF"};
    if (payload.size() >= kElf.size() && std::memcmp(payload.data(), kElf.data(), kElf.size()) == 0) {
        return std::vector(payload.begin(), payload.end());
    }
    auto kernel = unpack(payload, kMostUnpacked);
    if (!kernel) {
        return bad(kernel.error().what());
    }
    return kernel;
}

}  // namespace snapvm
