// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/elf.h"

#include <algorithm>
#include <functional>
#include <string>

#include "tests/support/result_matchers.h"
#include "tests/unit/vmm/boot/elf_builder.h"
#include "vmm/boot/loader.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

using test::ElfFile;
using test::fails;
using test::ok;

// What must hold of every image that is let through, whatever the file says.
void expect_sound(const ElfImage& image, std::span<const std::byte> file) {
    ASSERT_FALSE(image.segments.empty());
    for (std::size_t i = 0; i < image.segments.size(); ++i) {
        const ElfSegment& segment = image.segments[i];
        ASSERT_GT(segment.memory_size, 0U);
        ASSERT_LE(segment.bytes.size(), segment.memory_size);
        ASSERT_LE(segment.memory_size, UINT64_MAX - segment.at.value);
        ASSERT_GE(segment.bytes.data(), file.data());
        ASSERT_LE(segment.bytes.data() + segment.bytes.size(), file.data() + file.size());
        for (std::size_t j = 0; j < i; ++j) {
            const ElfSegment& other = image.segments[j];
            ASSERT_TRUE(segment.at + segment.memory_size <= other.at || other.at + other.memory_size <= segment.at);
        }
    }
}

// Parses, and loads what parses into a small machine: an error, or a guest whose entry is in its
// memory.
void expect_error_or_sound(std::span<const std::byte> bytes, const std::string& what) {
    SCOPED_TRACE(what);
    // A copy of exactly that size, so that a sanitizer sees a read past its end.
    const std::vector<std::byte> file(bytes.begin(), bytes.end());
    const auto image = ElfImage::parse(file);
    if (!image) {
        EXPECT_EQ(image.error().kind(), ErrorKind::invalid);
        return;
    }
    ASSERT_NO_FATAL_FAILURE(expect_sound(*image, file));
    for (const bool linux64 : {false, true}) {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, 4 << 20}, PagePolicy::small_pages));
        blocks.push_back(*MemoryBlock::anonymous({BlockId::firmware, platform::kFirmwareBase, platform::kFirmwareSize},
                                                 PagePolicy::small_pages));
        GuestMemory memory = *GuestMemory::of(std::move(blocks));
        const auto entry = load_guest(memory, {.kernel = file, .force_linux64 = linux64});
        if (entry) {
            EXPECT_GE(entry->rip, 0x100000U);
            EXPECT_LT(entry->rip, 4U << 20);
        } else {
            EXPECT_EQ(entry.error().kind(), ErrorKind::invalid);
        }
    }
}

TEST(Elf, GoodFileIsReadToTheByte) {
    const auto file = ElfFile().bytes();
    const auto image = ElfImage::parse(file);
    ASSERT_TRUE(ok(image));
    EXPECT_EQ(image->entry, ElfFile::kLoadAt + 4);
    EXPECT_EQ(image->pvh_entry, ElfFile::kLoadAt);
    ASSERT_EQ(image->segments.size(), 1U);
    EXPECT_EQ(image->segments[0].at.value, ElfFile::kLoadAt);
    EXPECT_EQ(image->segments[0].memory_size, 4096U);
    EXPECT_TRUE(std::ranges::equal(image->segments[0].bytes, std::span(file).last(16)));
}

TEST(Elf, EveryTruncationIsAnError) {
    const auto file = ElfFile().bytes();
    for (std::size_t size = 0; size < file.size(); ++size) {
        const std::vector<std::byte> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
        EXPECT_TRUE(fails(ElfImage::parse(cut), ErrorKind::invalid)) << size;
    }
    auto longer = file;
    longer.push_back(std::byte{0});
    EXPECT_TRUE(ok(ElfImage::parse(longer)));
}

/// A field of a header: its name, where it is and how wide.
struct Field {
    const char* name;
    std::size_t offset;
    std::size_t size;
};
#define FIELD(type, member) \
    Field { #member, offsetof(type, member), sizeof(type::member) }
const std::vector<Field> kHeaderFields = {
    FIELD(Elf64_Ehdr, e_type),    FIELD(Elf64_Ehdr, e_machine),   FIELD(Elf64_Ehdr, e_version),
    FIELD(Elf64_Ehdr, e_entry),   FIELD(Elf64_Ehdr, e_phoff),     FIELD(Elf64_Ehdr, e_shoff),
    FIELD(Elf64_Ehdr, e_flags),   FIELD(Elf64_Ehdr, e_ehsize),    FIELD(Elf64_Ehdr, e_phnum),
    FIELD(Elf64_Ehdr, e_shnum),   FIELD(Elf64_Ehdr, e_phentsize), FIELD(Elf64_Ehdr, e_shentsize),
    FIELD(Elf64_Ehdr, e_shstrndx)};
const std::vector<Field> kProgramFields = {
    FIELD(Elf64_Phdr, p_type),  FIELD(Elf64_Phdr, p_flags),  FIELD(Elf64_Phdr, p_offset), FIELD(Elf64_Phdr, p_vaddr),
    FIELD(Elf64_Phdr, p_paddr), FIELD(Elf64_Phdr, p_filesz), FIELD(Elf64_Phdr, p_memsz),  FIELD(Elf64_Phdr, p_align)};
const std::vector<Field> kNoteFields = {FIELD(Elf64_Nhdr, n_namesz), FIELD(Elf64_Nhdr, n_descsz),
                                        FIELD(Elf64_Nhdr, n_type), Field{"name", 12, 4}, Field{"descriptor", 16, 4}};
#undef FIELD

std::vector<std::uint64_t> extremes(std::size_t width, std::uint64_t file_size) {
    const std::uint64_t max = width == 8 ? UINT64_MAX : (1ULL << (8 * width)) - 1;
    return {0,           1,
            2,           max,
            max - 1,     max / 2,
            max / 2 + 1, file_size - 1,
            file_size,   file_size + 1,
            0x100000,    0x3FFFFF,
            0x400000,    0xE0000000,
            1ULL << 32};
}

void try_extremes(const std::vector<Field>& fields, std::size_t base) {
    const auto good = ElfFile().bytes();
    for (const Field& field : fields) {
        for (const std::uint64_t value : extremes(field.size, good.size())) {
            auto file = good;
            std::memcpy(file.data() + base + field.offset, &value, field.size);
            expect_error_or_sound(file, std::string(field.name) + " = " + std::to_string(value));
        }
    }
}

TEST(Elf, EveryFileHeaderFieldAtItsExtremes) {
    try_extremes(kHeaderFields, 0);
    for (std::size_t i = 0; i < EI_NIDENT; ++i) {
        try_extremes({{"e_ident", i, 1}}, 0);
    }
}
TEST(Elf, EveryNoteSegmentFieldAtItsExtremes) { try_extremes(kProgramFields, sizeof(Elf64_Ehdr)); }
TEST(Elf, EveryLoadSegmentFieldAtItsExtremes) { try_extremes(kProgramFields, sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr)); }
TEST(Elf, EveryNoteFieldAtItsExtremes) { try_extremes(kNoteFields, ElfFile().note_at()); }

TEST(Elf, EveryFlippedBitIsAnErrorOrSound) {
    const auto good = ElfFile().bytes();
    for (std::size_t bit = 0; bit < (good.size() - ElfFile::kCodeSize) * 8; ++bit) {
        auto file = good;
        file[bit / 8] ^= std::byte{1} << (bit % 8);
        expect_error_or_sound(file, "bit " + std::to_string(bit));
    }
}

// What a user does wrong, and that each is called by its name.
TEST(Elf, ErrorsSayWhatIsWrong) {
    const auto spoil = [](const std::function<void(ElfFile&)>& change) {
        ElfFile file;
        change(file);
        return ElfImage::parse(file.bytes());
    };
    EXPECT_TRUE(fails(ElfImage::parse({}), ErrorKind::invalid, "no ELF header"));
    EXPECT_TRUE(fails(spoil([](auto& f) { f.header.e_ident[0] = 0; }), ErrorKind::invalid, "no ELF header"));
    EXPECT_TRUE(
        fails(spoil([](auto& f) { f.header.e_ident[EI_CLASS] = ELFCLASS32; }), ErrorKind::invalid, "not for x86-64"));
    EXPECT_TRUE(
        fails(spoil([](auto& f) { f.header.e_ident[EI_DATA] = ELFDATA2MSB; }), ErrorKind::invalid, "not for x86-64"));
    EXPECT_TRUE(fails(spoil([](auto& f) { f.header.e_machine = EM_AARCH64; }), ErrorKind::invalid, "not for x86-64"));
    EXPECT_TRUE(fails(spoil([](auto& f) { f.header.e_type = ET_REL; }), ErrorKind::invalid, "not an executable"));
    EXPECT_TRUE(fails(spoil([](auto& f) { f.header.e_phnum = 0; }), ErrorKind::invalid, "wrong size or number"));
    EXPECT_TRUE(fails(spoil([](auto& f) { f.header.e_phentsize = 32; }), ErrorKind::invalid, "wrong size or number"));
    EXPECT_TRUE(
        fails(spoil([](auto& f) { f.header.e_phoff = UINT64_MAX; }), ErrorKind::invalid, "program headers are beyond"));
    EXPECT_TRUE(
        fails(spoil([](auto& f) { f.programs[0].p_offset = UINT64_MAX; }), ErrorKind::invalid, "note is beyond"));
    EXPECT_TRUE(
        fails(spoil([](auto& f) { f.programs[1].p_offset = 100'000; }), ErrorKind::invalid, "segment is beyond"));
    EXPECT_TRUE(fails(spoil([](auto& f) { f.programs[1].p_memsz = 15; }), ErrorKind::invalid, "impossible"));
    EXPECT_TRUE(
        fails(spoil([](auto& f) { f.programs[1].p_paddr = UINT64_MAX - 100; }), ErrorKind::invalid, "impossible"));
    EXPECT_TRUE(
        fails(spoil([](auto& f) { f.programs[1].p_type = PT_NULL; }), ErrorKind::invalid, "no segment to load"));
}

TEST(Elf, OverlappingSegmentsAreRefusedAndAdjacentOnesAreNot) {
    for (const auto& [at, size, good] : {std::tuple{0x201000ULL, 4096ULL, true},
                                         {0x1FF000ULL, 4096ULL, true},
                                         {0x200FFFULL, 16ULL, false},
                                         {0x1FF000ULL, 4097ULL, false},
                                         {0x200100ULL, 16ULL, false},
                                         {0x100000ULL, 0x800000ULL, false}}) {
        ElfFile file;
        file.programs.push_back(file.programs[1]);
        file.place();
        file.programs[2].p_paddr = at;
        file.programs[2].p_memsz = size;
        const auto image = ElfImage::parse(file.bytes());
        EXPECT_EQ(image.has_value(), good) << std::hex << at << ' ' << size;
    }
}

TEST(Elf, OnlyAXenNoteOfItsTypeIsPvh) {
    const auto pvh_of = [](const std::function<void(ElfFile::Note&)>& change) {
        ElfFile file;
        change(file.note);
        return ElfImage::parse(file.bytes()).value().pvh_entry;
    };
    EXPECT_TRUE(pvh_of([](auto&) {}).has_value());
    EXPECT_FALSE(pvh_of([](auto& n) { n.header.n_type = 17; }).has_value());
    EXPECT_FALSE(pvh_of([](auto& n) { n.name[0] = 'x'; }).has_value());
    EXPECT_FALSE(pvh_of([](auto& n) { n.name[3] = 'x'; }).has_value());
    EXPECT_FALSE(pvh_of([](auto& n) { n.header.n_descsz = 3; }).has_value());
    EXPECT_FALSE(pvh_of([](auto& n) { n.header.n_namesz = 3; }).has_value());
}

}  // namespace
}  // namespace snapvm
