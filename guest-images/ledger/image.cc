// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/image.h"

// Top-level assembly needs no assembler language enabled in CMake, and every compiler takes it.
asm(".pushsection .rodata\n"
    ".balign 4096\n"
    ".globl snapvm_ledger_image, snapvm_ledger_image_end\n"
    "snapvm_ledger_image:\n"
    ".incbin \"" LEDGER_ELF
    "\"\n"
    "snapvm_ledger_image_end:\n"
    ".popsection\n");

extern "C" {
extern const std::byte snapvm_ledger_image[];
extern const std::byte snapvm_ledger_image_end[];
}

namespace snapvm {

std::span<const std::byte> ledger_image() { return {snapvm_ledger_image, snapvm_ledger_image_end}; }

}  // namespace snapvm
