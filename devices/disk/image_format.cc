// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image_format.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

using namespace std::string_view_literals;

constexpr std::size_t kSector = 512;

struct Magic {
    std::string_view format;
    std::string_view bytes;
    std::size_t offset = 0;
};

// As in QEMU's block drivers, beside the last one (FORMAT.md).
constexpr Magic kFirst[] = {{"qcow2", "QFI\xfb"},
                            {"QED", "QED\0"sv},
                            {"VMDK", "KDMV"},
                            {"VMDK", "COWD"},
                            {"VMDK", "# Disk DescriptorFile"},
                            {"VHD", "conectix"},
                            {"VHDX", "vhdxfile"},
                            {"VDI", "\x7f\x10\xda\xbe", 64},
                            {"Parallels", "WithoutFreeSpace"},
                            {"Parallels", "WithouFreSpacExt"},
                            {"Bochs", "Bochs Virtual HD Image"},
                            {"snapvm area", "snapvm\x1a\n"}};
// A fixed VHD is raw data with a footer.
constexpr Magic kLast[] = {{"VHD", "conectix"}, {"DMG", "koly"}};

using Sector = std::array<char, kSector>;

// Reads a sector, or what there is of it.
Result<Sector> read_sector(int fd, std::uint64_t size, std::uint64_t offset, const std::string& name) {
    Sector sector{};
    const std::size_t there = std::min<std::uint64_t>(sector.size(), size - offset);
    TRY(read_exactly_at(fd, std::as_writable_bytes(std::span(sector)).first(there), offset, name));
    return sector;
}

std::string_view find(std::span<const Magic> list, const Sector& sector) {
    const std::string_view bytes(sector.data(), sector.size());
    const auto found =
        std::ranges::find_if(list, [&](const Magic& one) { return bytes.substr(one.offset).starts_with(one.bytes); });
    return found == list.end() ? std::string_view() : found->format;
}

}  // namespace

Result<std::string_view> image_format(int fd, std::uint64_t size, const std::string& name) {
    const std::string_view first = find(kFirst, TRY(read_sector(fd, size, 0, name)));
    if (!first.empty() || size < kSector) {
        return first;
    }
    return find(kLast, TRY(read_sector(fd, size, size - kSector, name)));
}

}  // namespace snapvm
