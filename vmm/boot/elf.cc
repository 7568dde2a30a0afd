// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint32_t kPvhNoteType = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::size_t kMaxSegments = 128;

std::unexpected<Error> bad(const char* why) {
    return fail(ErrorKind::invalid, std::string("the kernel is not a usable ELF file: ") + why,
                "give an x86-64 ELF executable (vmlinux, or one with a PVH note)");
}

// Returns file[offset, offset + size), or nothing if the file ends before that.
std::optional<std::span<const std::byte>> slice(std::span<const std::byte> file, std::uint64_t offset,
                                                std::uint64_t size) {
    if (offset > file.size() || size > file.size() - offset) {
        return std::nullopt;
    }
    return file.subspan(offset, size);
}

template <class T>
std::optional<T> read_at(std::span<const std::byte> file, std::uint64_t offset) {
    const auto part = slice(file, offset, sizeof(T));
    if (!part) {
        return std::nullopt;
    }
    T value;
    std::memcpy(&value, part->data(), sizeof value);
    return value;
}

// A note is (name size, descriptor size, type, name, descriptor); name and descriptor are padded to
// 4 bytes.
std::optional<std::uint32_t> find_pvh_note(std::span<const std::byte> notes) {
    std::uint64_t at = 0;
    while (const auto header = read_at<Elf64_Nhdr>(notes, at)) {
        const std::uint64_t name_at = at + sizeof *header;
        const std::uint64_t descriptor_at = name_at + align_up(header->n_namesz, 4);
        const auto name = slice(notes, name_at, header->n_namesz);
        if (name && header->n_type == kPvhNoteType && name->size() == 4 && std::memcmp(name->data(), "Xen", 4) == 0) {
            // The descriptor has 4 or 8 bytes and is a physical 32-bit address in both cases.
            return header->n_descsz >= 4 ? read_at<std::uint32_t>(notes, descriptor_at) : std::nullopt;
        }
        at = descriptor_at + align_up(header->n_descsz, 4);
    }
    return std::nullopt;
}

bool overlap(const ElfSegment& a, const ElfSegment& b) {
    return a.at < b.at + b.memory_size && b.at < a.at + a.memory_size;
}

}  // namespace

Result<ElfImage> ElfImage::parse(std::span<const std::byte> file) {
    const auto header = read_at<Elf64_Ehdr>(file, 0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
        return bad("it has no ELF header");
    }
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_machine != EM_X86_64) {
        return bad("it is not for x86-64");
    }
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN) {
        return bad("it is not an executable");
    }
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0 || header->e_phnum > kMaxSegments) {
        return bad("its program headers have a wrong size or number");
    }
    ElfImage image;
    image.entry = header->e_entry;
    for (std::uint64_t i = 0; i < header->e_phnum; ++i) {
        if (header->e_phoff > file.size()) {
            return bad("its program headers are beyond its end");
        }
        const auto program = read_at<Elf64_Phdr>(file, header->e_phoff + i * sizeof(Elf64_Phdr));
        if (!program) {
            return bad("its program headers are beyond its end");
        }
        const auto bytes = slice(file, program->p_offset, program->p_filesz);
        if (program->p_type == PT_NOTE) {
            if (!bytes) {
                return bad("a note is beyond its end");
            }
            if (!image.pvh_entry) {
                image.pvh_entry = find_pvh_note(*bytes);
            }
            continue;
        }
        if (program->p_type != PT_LOAD || program->p_memsz == 0) {
            continue;
        }
        if (!bytes) {
            return bad("a segment is beyond its end");
        }
        if (program->p_memsz < program->p_filesz || program->p_memsz > UINT64_MAX - program->p_paddr) {
            return bad("the size of a segment in memory is impossible");
        }
        const ElfSegment segment{Gpa{program->p_paddr}, program->p_memsz, *bytes};
        if (std::ranges::any_of(image.segments, [&](const ElfSegment& other) { return overlap(segment, other); })) {
            return bad("its segments overlap");
        }
        image.segments.push_back(segment);
    }
    if (image.segments.empty()) {
        return bad("it has no segment to load");
    }
    return image;
}

}  // namespace snapvm
