// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse_guest.h"

#include <elf.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "snapshot/write/write_snapshot.h"
#include "vmm/base/try.h"
#include "vmm/control/machine_source.h"
#include "vmm/machine/machine.h"

namespace snapvm::bench {
namespace {

constexpr std::uint64_t kLoadAt = 1ULL << 20;

// Linux 64-bit entry: one MARK shows that the program runs; then it writes bytes to the serial port
// for ever.
constexpr std::array<unsigned char, 21> kProgram = {
    0x66, 0xBA, 0xF8, 0x05,        // mov dx, 0x5f8
    0xB8, 0x01, 0x00, 0x00, 0x00,  // mov eax, 1
    0xEF,                          // out dx, eax
    0x66, 0xBA, 0xF8, 0x03,        // mov dx, 0x3f8
    0xB0, '.',                     // mov al, '.'
    0xEE,                          // out dx, al
    0xEB, 0xFD,                    // jmp to the out
    0x0F, 0x0B,                    // ud2
};

std::vector<std::byte> elf_of_program() {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = kLoadAt;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 1;
    Elf64_Phdr program{};
    program.p_type = PT_LOAD;
    program.p_flags = PF_R | PF_X;
    program.p_offset = sizeof header + sizeof program;
    program.p_vaddr = program.p_paddr = kLoadAt;
    program.p_filesz = program.p_memsz = kProgram.size();
    program.p_align = 1;
    std::vector<std::byte> file(sizeof header + sizeof program + kProgram.size());
    std::memcpy(file.data(), &header, sizeof header);
    std::memcpy(file.data() + sizeof header, &program, sizeof program);
    std::memcpy(file.data() + sizeof header + sizeof program, kProgram.data(), kProgram.size());
    return file;
}

// Writes from the host's side: a guest at CPL 0 is slow if KVM emulates kernel mode.
void use(MemoryBlock& block, std::uint64_t from, std::uint64_t size) {
    for (std::uint64_t at = from; at < from + size && at < block.spec().size; at += kPageSize) {
        std::memset(block.host() + at, static_cast<int>(at / kPageSize % 255 + 1), kPageSize);
    }
}

void use_sparsely(GuestMemory& memory) {
    MemoryBlock& low = *memory.find(BlockId::ram_low);
    use(low, kLoadAt + kPageSize, kLowUsed - kLoadAt - kPageSize);
    const MemoryBlock* high = memory.find(BlockId::ram_high);
    const std::uint64_t all = low.spec().size + (high == nullptr ? 0 : high->spec().size);
    for (std::uint64_t i = 1; i < kIslands; ++i) {
        const std::uint64_t at = all / kIslands * i;
        if (at < low.spec().size) {
            use(low, at, kIslandSize);
        } else {
            use(*memory.find(BlockId::ram_high), at - low.spec().size, kIslandSize);
        }
    }
}

}  // namespace

Status snapshot_sparse_guest(std::uint64_t memory_bytes, const AreaPath& area) {
    const std::vector<std::byte> elf = elf_of_program();
    const kvm::System system = TRY(kvm::System::open());
    MachineConfig config;
    config.memory_bytes = memory_bytes;
    config.kernel = "bench:sparse";
    config.machine_id = TRY(Uuid::random());
    const auto machine = TRY(Machine::create(system, config, BootSource{.kernel = elf, .initrds = {}, .cmdline = ""}));
    use_sparsely(machine->memory());
    TRY(machine->resume());
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (machine->stats().marks == 0) {
        if (const auto ended = machine->wait_ended(std::chrono::steady_clock::now()); ended && ended->error) {
            return fail(*ended->error);
        }
        if (std::chrono::steady_clock::now() > deadline) {
            return fail(ErrorKind::system, "the sparse guest does not run");
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (area.offset == 0) {
        ::unlink(area.path.c_str());  // a device stays; the area in it is overwritten
    }
    MachineSnapshotSource source(*machine);
    WriteOptions options;
    options.keep_frozen = true;
    TRY(write_snapshot(source, area, options));
    return {};
}

}  // namespace snapvm::bench
