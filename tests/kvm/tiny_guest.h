// SPDX-License-Identifier: Apache-2.0
// Guests of a few instructions, written as assembly in their tests and assembled with them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

/// Defines `const TinyCode name` from position-independent 64-bit code in AT&T syntax. The entry is
/// the first instruction.
#define SNAPVM_TINY_CODE(name, text)                                                              \
    asm(".pushsection .rodata\n.balign 16\n.code64\ntiny_" #name "_start:\n" text "\ntiny_" #name \
        "_end:\n.popsection\n");                                                                  \
    extern "C" const unsigned char tiny_##name##_start[];                                         \
    extern "C" const unsigned char tiny_##name##_end[];                                           \
    const ::snapvm::test::TinyCode name { tiny_##name##_start, tiny_##name##_end }

namespace snapvm::test {

struct TinyCode {
    const unsigned char* start;
    const unsigned char* end;
    [[nodiscard]] std::span<const std::byte> bytes() const {
        return std::as_bytes(std::span(start, static_cast<std::size_t>(end - start)));
    }
};

/// Addresses in a tiny guest. Code runs with the first 4 GiB identity-mapped and accessible at CPL
/// 3, devices included.
namespace tiny {
inline constexpr Gpa kGdt{0x40000};
inline constexpr Gpa kIdt{0x41000};
inline constexpr Gpa kTss{0x42000};        ///< with an I/O bitmap that allows every port
inline constexpr std::uint64_t kKernelStack = 0x50000;
inline constexpr std::uint64_t kUserStack = 0x60000;
inline constexpr Gpa kData{0x70000};  ///< counters, for guest and test; RBX has this address at the start
inline constexpr Gpa kSlots{0x80000};      ///< APs: start page (SIPI vector 0x80)
inline constexpr Gpa kCode{0x100000};
inline constexpr Gpa kHandlers{0x180000};
inline constexpr std::uint64_t kMemory = 2ULL << 20;
}  // namespace tiny

/// The code, and the handler of an interrupt, which runs at CPL 0.
struct TinyGuest {
    TinyCode code;
    bool user = true;                    ///< at CPL 3, reached through a prologue that loads GDT, IDT and TSS
    std::uint8_t vector = 0;             ///< of `handler`
    const TinyCode* handler = nullptr;   ///< ends in iretq; interrupts are on at CPL 3 when there is one
};

/// Returns an ELF of the guest (Linux 64-bit entry) for Machine::create.
std::vector<std::byte> tiny_elf(const TinyGuest& guest);
/// Writes the guest's tables into memory. It is called after the loader has written its own, before
/// the first run.
void write_tiny_tables(GuestMemory& memory, const TinyGuest& guest);

}  // namespace snapvm::test
