// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/tiny_guest.h"

#include <elf.h>

#include <array>
#include <cstring>

#include "tests/kvm/harness.h"
#include "vmm/platform/platform.h"

// Leads from CPL 0, as the loader leaves it, to the code at CPL 3. The addresses are those of
// tiny_guest.h. R15 has the RFLAGS of the code. IOPL is 3, and the TSS has a bitmap too: some hosts
// drop IOPL on iretq to CPL 3, and others ignore the bitmap of a busy TSS, which every TSS is after
// a restore.
SNAPVM_TINY_CODE(prologue_off, R"(
    mov $0x3002, %r15d
)");
SNAPVM_TINY_CODE(prologue_on, R"(
    mov $0x3202, %r15d
)");
SNAPVM_TINY_CODE(prologue, R"(
    mov $0x50000, %esp
    sub $16, %rsp
    movw $0x5f, (%rsp)
    movq $0x40000, 2(%rsp)
    lgdt (%rsp)
    movw $0xfff, (%rsp)
    movq $0x41000, 2(%rsp)
    lidt (%rsp)
    mov $0x30, %eax
    ltr %ax
    mov $0x2b, %eax
    mov %eax, %ds
    mov %eax, %es
    add $16, %rsp
    mov $0x70000, %ebx
    push $0x2b
    push $0x60000
    push %r15
    push $0x23
    lea 1f(%rip), %rax
    push %rax
    iretq
1:
)");
SNAPVM_TINY_CODE(kernel_prologue, R"(
    mov $0x50000, %esp
    mov $0x70000, %ebx
)");

namespace snapvm::test {
namespace {

constexpr std::uint64_t kCode64 = 0x00AF9B000000FFFF;
constexpr std::uint64_t kData = 0x00CF93000000FFFF;
constexpr std::uint64_t kUserCode64 = 0x00AFFB000000FFFF;
constexpr std::uint64_t kUserData = 0x00CFF3000000FFFF;
constexpr std::uint64_t kUserBit = 4;
constexpr std::uint64_t kTssBitmap = 0x68;
constexpr std::uint64_t kTssSize = kTssBitmap + 8192 + 1;

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
    to.insert(to.end(), bytes.begin(), bytes.end());
}

template <class T>
void append_value(std::vector<std::byte>& to, const T& value) {
    append(to, std::as_bytes(std::span(&value, 1)));
}

std::vector<std::byte> image_of(const TinyGuest& guest) {
    std::vector<std::byte> image;
    if (guest.user) {
        append(image, (guest.handler != nullptr ? prologue_on : prologue_off).bytes());
        append(image, prologue.bytes());
    } else {
        append(image, kernel_prologue.bytes());
    }
    append(image, guest.code.bytes());
    if (guest.handler != nullptr) {
        image.resize(tiny::kHandlers - tiny::kCode);
        append(image, guest.handler->bytes());
    }
    return image;
}

}  // namespace

std::vector<std::byte> tiny_elf(const TinyGuest& guest) {
    const std::vector<std::byte> image = image_of(guest);
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = tiny::kCode.value;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 1;
    Elf64_Phdr segment{};
    segment.p_type = PT_LOAD;
    segment.p_flags = PF_R | PF_W | PF_X;
    segment.p_offset = sizeof header + sizeof segment;
    segment.p_vaddr = segment.p_paddr = tiny::kCode.value;
    segment.p_filesz = segment.p_memsz = image.size();
    segment.p_align = 1;
    std::vector<std::byte> elf;
    append_value(elf, header);
    append_value(elf, segment);
    append(elf, image);
    return elf;
}

void write_tiny_tables(GuestMemory& memory, const TinyGuest& guest) {
    // Selectors are 0x10 and 0x18 as in the loader's GDT, 0x20 and 0x28 for CPL 3, and 0x30 for the
    // TSS (two entries).
    const std::uint64_t tss = tiny::kTss.value;
    const std::uint64_t tss_low =
        ((kTssSize - 1) & 0xFFFF) | (tss & 0xFFFFFF) << 16 | 0x89ULL << 40 | (tss >> 24 & 0xFF) << 56;
    const std::array<std::uint64_t, 12> gdt = {0, 0, kCode64, kData, kUserCode64, kUserData, tss_low, tss >> 32};
    need(memory.store(tiny::kGdt, gdt));
    need(memory.store(tiny::kTss + 4, tiny::kKernelStack));
    need(memory.store(tiny::kTss + 0x66, static_cast<std::uint16_t>(kTssBitmap)));
    need(memory.store(tiny::kTss + (kTssSize - 1), std::uint8_t{0xFF}));
    if (guest.handler != nullptr) {
        const std::uint64_t at = tiny::kHandlers.value;
        const std::array<std::uint64_t, 2> gate = {
            (at & 0xFFFF) | 0x10ULL << 16 | 0x8EULL << 40 | (at >> 16 & 0xFFFF) << 48, at >> 32};
        need(memory.store(tiny::kIdt + guest.vector * sizeof gate, gate));
    }
    // The loader's page tables (one PML4, one PDPT, four directories) allow CPL 0 only.
    for (std::uint64_t table = 0; table < 6; ++table) {
        const Gpa at = platform::kPageTables + table * kPageSize;
        auto entries = need(memory.load<std::array<std::uint64_t, 512>>(at));
        for (std::uint64_t& entry : entries) {
            entry |= entry != 0 ? kUserBit : 0;
        }
        need(memory.store(at, entries));
    }
}

}  // namespace snapvm::test
