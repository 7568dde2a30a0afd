// SPDX-License-Identifier: Apache-2.0
// Builds ELF files for tests: a small valid one, whose fields can be damaged one by one.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace snapvm::test {

/// A kernel of one loaded segment (16 bytes of code, 4 KiB in memory) and a PVH note.
struct ElfFile {
    static constexpr std::uint64_t kLoadAt = 0x200000;
    static constexpr std::size_t kCodeSize = 16;

    struct Note {
        Elf64_Nhdr header{.n_namesz = 4, .n_descsz = 4, .n_type = 18};
        char name[4] = {'X', 'e', 'n', '\0'};
        std::uint32_t entry = static_cast<std::uint32_t>(kLoadAt);
    };

    Elf64_Ehdr header{};
    std::vector<Elf64_Phdr> programs;
    Note note;

    ElfFile() {
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_ident[EI_VERSION] = EV_CURRENT;
        header.e_type = ET_EXEC;
        header.e_machine = EM_X86_64;
        header.e_version = EV_CURRENT;
        header.e_entry = kLoadAt + 4;
        header.e_phoff = sizeof header;
        header.e_ehsize = sizeof header;
        header.e_phentsize = sizeof(Elf64_Phdr);
        programs.resize(2);
        programs[0] = {.p_type = PT_NOTE,
                       .p_flags = PF_R,
                       .p_offset = 0,
                       .p_vaddr = 0,
                       .p_paddr = 0,
                       .p_filesz = sizeof(Note),
                       .p_memsz = 0,
                       .p_align = 4};
        programs[1] = {.p_type = PT_LOAD,
                       .p_flags = PF_R | PF_X,
                       .p_offset = 0,
                       .p_vaddr = kLoadAt,
                       .p_paddr = kLoadAt,
                       .p_filesz = kCodeSize,
                       .p_memsz = 4096,
                       .p_align = 4096};
        place();
    }

    /// Places the note and the code. It is called after the number of program headers has changed.
    void place() {
        header.e_phnum = static_cast<std::uint16_t>(programs.size());
        for (Elf64_Phdr& program : programs) {
            program.p_offset = program.p_type == PT_NOTE ? note_at() : note_at() + sizeof(Note);
        }
    }
    [[nodiscard]] std::size_t note_at() const { return sizeof header + programs.size() * sizeof(Elf64_Phdr); }

    [[nodiscard]] std::vector<std::byte> bytes() const {
        std::vector<std::byte> file(note_at() + sizeof(Note) + kCodeSize);
        std::memcpy(file.data(), &header, sizeof header);
        std::memcpy(file.data() + sizeof header, programs.data(), programs.size() * sizeof(Elf64_Phdr));
        std::memcpy(file.data() + note_at(), &note, sizeof note);
        for (std::size_t i = 0; i < kCodeSize; ++i) {
            file[file.size() - kCodeSize + i] = static_cast<std::byte>(0xC0 + i);
        }
        return file;
    }
};

}  // namespace snapvm::test
