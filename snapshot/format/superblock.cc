// SPDX-License-Identifier: Apache-2.0
#include "snapshot/format/superblock.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "vmm/base/bytes.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::string_view kMagic{"snapvm\x1a\n", 8};
constexpr std::size_t kHeaderCrcOffset = kSuperblockHeaderSize - sizeof(std::uint32_t);
constexpr std::size_t kSectionCountOffset = 112;
constexpr std::size_t kSectionSize = 40;
constexpr std::size_t kMaxSections = kSectionTableSize / kSectionSize;
constexpr std::size_t kSingleSections = 6;
static_assert(kSingleSections + 2 * kMaxBlocks <= kMaxSections);

std::unexpected<Error> bad(std::string_view where, const std::string& what) {
    return fail(ErrorKind::invalid, std::string(where) + " " + what, "the area is damaged: restore another snapshot");
}

bool is_per_block(SectionKind kind) { return kind == SectionKind::entries || kind == SectionKind::data; }

Uuid take_uuid(Decoder& in) {
    Uuid uuid;
    if (auto bytes = in.take(uuid.bytes.size()); !bytes.empty()) {
        std::memcpy(uuid.bytes.data(), bytes.data(), bytes.size());
    }
    return uuid;
}

Status check_header(const Superblock& sb, std::string_view where) {
    const bool slots_fit = sb.slots >= 1 && sb.slots <= 2 && sb.slot < sb.slots;
    const bool range_fits = is_page_aligned(sb.area_size) && is_page_aligned(sb.slot_offset) &&
                            is_page_aligned(sb.slot_size) && sb.area_size < 1ULL << 62 &&
                            sb.slot_offset >= kSlotsStart && sb.slot_offset <= sb.area_size &&
                            sb.slot_size <= sb.area_size - sb.slot_offset;
    const bool numbered = sb.sequence != 0 || sb.state != SlotState::complete;
    if (!slots_fit || !range_fits || !numbered || sb.cpus == 0 ||
        (sb.state != SlotState::writing && sb.state != SlotState::complete)) {
        return bad(where, "has fields with impossible values");
    }
    return {};
}

// Every section lies within its slot, is page-aligned, and overlaps no other.
Status check_places(const Superblock& sb, std::string_view where) {
    std::vector<Section> sorted = sb.sections;
    std::ranges::sort(sorted, {}, &Section::offset);
    std::uint64_t free_from = sb.slot_offset;
    const std::uint64_t end = sb.slot_offset + sb.slot_size;
    for (const Section& section : sorted) {
        const bool inside =
            section.offset >= free_from && section.offset <= end && section.capacity <= end - section.offset;
        if (!inside || section.length > section.capacity || !is_page_aligned(section.offset) ||
            !is_page_aligned(section.capacity)) {
            return bad(where,
                       "places section " + std::string(name_of(section.kind)) + " outside of its slot or over another");
        }
        free_from = section.offset + section.capacity;
    }
    return {};
}

// Each kind that is not per block comes once. Each block has one entries and one data section for
// the same number of pages, and both kinds name the blocks in the same order.
Status check_kinds(const Superblock& sb, std::string_view where) {
    std::array<std::size_t, static_cast<std::size_t>(SectionKind::data) + 1> count{};
    std::vector<const Section*> entries;
    std::vector<const Section*> data;
    for (const Section& section : sb.sections) {
        const auto kind = static_cast<std::size_t>(section.kind);
        if (kind == 0 || kind >= count.size()) {
            return bad(where, "has a section of unknown kind " + std::to_string(kind));
        }
        if (is_per_block(section.kind) != (section.block != 0)) {
            return bad(where, "gives section " + std::string(name_of(section.kind)) + " the wrong block");
        }
        if (section.length == 0 && section.crc != 0) {
            return bad(where, "has an empty section " + std::string(name_of(section.kind)) + " with a checksum");
        }
        if (section.kind == SectionKind::working_set && section.length != 0) {
            return bad(where, "has a working set, which this version does not have");
        }
        ++count[kind];
        if (is_per_block(section.kind)) {
            (section.kind == SectionKind::data ? data : entries).push_back(&section);
        }
    }
    for (std::size_t kind = 1; kind < count.size(); ++kind) {
        const auto as_kind = static_cast<SectionKind>(kind);
        if (!is_per_block(as_kind) && count[kind] != 1) {
            return bad(where, "has " + std::to_string(count[kind]) + " sections " + std::string(name_of(as_kind)) +
                                  " instead of one");
        }
    }
    if (data.empty() || data.size() > kMaxBlocks || data.size() != entries.size()) {
        return bad(where, "has " + std::to_string(data.size()) + " data and " + std::to_string(entries.size()) +
                              " entry sections");
    }
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < data.size(); ++i) {
        const std::uint64_t pages = data[i]->length / kPageSize;
        const bool pairs = data[i]->block == entries[i]->block && data[i]->length != 0 &&
                           is_page_aligned(data[i]->length) && entries[i]->length == pages * sizeof(std::uint64_t) &&
                           data[i]->crc == 0;
        const bool twice = std::ranges::count(data, data[i]->block, &Section::block) != 1;
        if (!pairs || twice) {
            return bad(where, "has entries and data of block " + std::to_string(data[i]->block) +
                                  " that do not belong together");
        }
        total += data[i]->length;  // may wrap around; check_places() refuses sections of such sizes
    }
    if (total != sb.memory_bytes) {
        return bad(where, "has sections of another memory size than it says");
    }
    return {};
}

Status decode_table(Superblock& sb, std::span<const std::byte> table, std::size_t count, std::string_view where) {
    if (crc32c(table) != sb.table_crc) {
        return bad(where, "has a section table with a wrong checksum");
    }
    if (count > kMaxSections) {
        return bad(where, "has " + std::to_string(count) + " sections");
    }
    Decoder in(table);
    for (std::size_t i = 0; i < count; ++i) {
        Section section;
        section.kind = static_cast<SectionKind>(in.u32());
        section.block = in.u32();
        section.offset = in.u64();
        section.capacity = in.u64();
        section.length = in.u64();
        section.crc = in.u32();
        if (in.u32() != 0) {
            return bad(where, "has reserved bytes in use");
        }
        sb.sections.push_back(section);
    }
    if (!is_all_zero(in.take(in.left()))) {
        return bad(where, "has reserved bytes in use");
    }
    TRY(check_kinds(sb, where));
    return check_places(sb, where);
}

}  // namespace

std::string_view name_of(SectionKind kind) {
    switch (kind) {
        case SectionKind::metadata: return "metadata";
        case SectionKind::start: return "start";
        case SectionKind::entries: return "entries";
        case SectionKind::plan: return "plan";
        case SectionKind::state: return "state";
        case SectionKind::disks: return "disks";
        case SectionKind::working_set: return "working-set";
        case SectionKind::data: return "data";
    }
    return "unknown";
}

bool is_all_zero(std::span<const std::byte> bytes) {
    return bytes.empty() ||
           (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

bool has_area_magic(std::span<const std::byte> block) {
    return block.size() >= kMagic.size() && std::memcmp(block.data(), kMagic.data(), kMagic.size()) == 0;
}

const Section* Superblock::find(SectionKind kind, std::uint32_t block) const {
    auto found = std::ranges::find_if(sections, [&](const Section& s) { return s.kind == kind && s.block == block; });
    return found == sections.end() ? nullptr : &*found;
}

std::array<std::byte, kSuperblockHeaderSize> Superblock::encode_header() const {
    Encoder out;
    out.raw(std::as_bytes(std::span(kMagic)));
    out.u16(kFormatMajor);
    out.u16(kFormatMinor);
    out.u32(kSuperblockSize);
    out.u64(area_size);
    out.u64(sequence);
    out.raw(std::as_bytes(std::span(machine_id.bytes)));
    out.raw(std::as_bytes(std::span(snapshot_id.bytes)));
    out.u32(static_cast<std::uint32_t>(state));
    out.u32(slots);
    out.u32(slot);
    out.u32(cpus);
    out.u64(slot_offset);
    out.u64(slot_size);
    out.u64(memory_bytes);
    out.u64(created_us);
    out.u32(static_cast<std::uint32_t>(sections.size()));
    out.u32(table_crc);
    out.pad_to(kHeaderCrcOffset);
    out.u32(crc32c(out.bytes()));
    std::array<std::byte, kSuperblockHeaderSize> header{};
    std::ranges::copy(out.bytes(), header.begin());
    return header;
}

std::vector<std::byte> Superblock::encode_table() const {
    Encoder out;
    for (const Section& section : sections) {
        out.u32(static_cast<std::uint32_t>(section.kind));
        out.u32(section.block);
        out.u64(section.offset);
        out.u64(section.capacity);
        out.u64(section.length);
        out.u32(section.crc);
        out.u32(0);
    }
    out.pad_to(kSectionTableSize);
    return out.take();
}

Result<Superblock> Superblock::decode_header(std::span<const std::byte> block, std::string_view where) {
    if (block.size() < kSuperblockSize || !has_area_magic(block)) {
        return bad(where, "is not one of a snapshot area");
    }
    const auto header = block.first(kSuperblockHeaderSize);
    Decoder in(header);
    (void)in.take(kMagic.size());
    const std::uint16_t major = in.u16();
    const std::uint16_t minor = in.u16();
    // The version is checked before the checksum, because a newer version may keep its checksum
    // elsewhere.
    if (major != kFormatMajor || minor > kFormatMinor) {
        return fail(ErrorKind::unsupported,
                    std::string(where) + " has format version " + std::to_string(major) + "." + std::to_string(minor) +
                        ", and this program reads version " + std::to_string(kFormatMajor) + "." +
                        std::to_string(kFormatMinor),
                    "use the version of snapvm that wrote it");
    }
    Decoder crc_field(header.subspan(kHeaderCrcOffset));
    if (crc_field.u32() != crc32c(header.first(kHeaderCrcOffset))) {
        return bad(where, "has a wrong checksum");
    }
    Superblock sb;
    const std::uint32_t size = in.u32();
    sb.area_size = in.u64();
    sb.sequence = in.u64();
    sb.machine_id = take_uuid(in);
    sb.snapshot_id = take_uuid(in);
    sb.state = static_cast<SlotState>(in.u32());
    sb.slots = in.u32();
    sb.slot = in.u32();
    sb.cpus = in.u32();
    sb.slot_offset = in.u64();
    sb.slot_size = in.u64();
    sb.memory_bytes = in.u64();
    sb.created_us = in.u64();
    const std::uint32_t count = in.u32();
    sb.table_crc = in.u32();
    if (size != kSuperblockSize || !is_all_zero(in.take(kHeaderCrcOffset - (kSuperblockHeaderSize - in.left())))) {
        return bad(where, "has reserved bytes in use");
    }
    TRY(check_header(sb, where));
    if (sb.state == SlotState::writing && count != 0) {
        return bad(where, "has reserved bytes in use");
    }
    return sb;
}

Result<Superblock> Superblock::decode(std::span<const std::byte> block, std::string_view where) {
    Superblock sb = TRY(decode_header(block, where));
    if (sb.state == SlotState::complete) {
        Decoder count(block.subspan(kSectionCountOffset, sizeof(std::uint32_t)));
        TRY(decode_table(sb, block.subspan(kSuperblockHeaderSize, kSectionTableSize), count.u32(), where));
    }
    return sb;
}

}  // namespace snapvm
