// SPDX-License-Identifier: Apache-2.0
// Decodes instructions with Capstone.
#pragma once

#include <capstone/capstone.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm::emulate {

/// The code size that CS and EFER select.
enum class CodeSize : std::uint8_t { bits16, bits32, bits64 };

/// The longest x86 instruction, in bytes.
inline constexpr std::size_t kMaxInstruction = 15;

/// Owns a Capstone handle. One thread at a time uses it.
class Decoder {
public:
    /// Fails with system if Capstone has no memory.
    static Result<Decoder> create(CodeSize size);

    /// Decodes the first instruction of `bytes`, which are at `address`. Returns null if there is
    /// none. The result is valid until the next call.
    [[nodiscard]] const cs_insn* decode(std::span<const std::byte> bytes, std::uint64_t address);

private:
    struct CloseHandle {
        void operator()(csh* handle) const {
            (void)cs_close(handle);
            delete handle;
        }
    };
    struct FreeInstruction {
        void operator()(cs_insn* instruction) const { cs_free(instruction, 1); }
    };
    explicit Decoder(csh handle) : handle_(new csh(handle)), instruction_(cs_malloc(handle)) {}

    std::unique_ptr<csh, CloseHandle> handle_;
    std::unique_ptr<cs_insn, FreeInstruction> instruction_;
};

/// One line of a listing.
struct DisassembledLine {
    std::uint64_t address = 0;
    std::vector<std::byte> bytes;
    std::string text;  ///< Intel's syntax; "(bad)" if the bytes are not an instruction
};

/// Disassembles up to `max_instructions` instructions from `address` on, until `bytes` end.
[[nodiscard]] Result<std::vector<DisassembledLine>> disassemble(CodeSize size, std::span<const std::byte> bytes,
                                                                std::uint64_t address, std::size_t max_instructions);

}  // namespace snapvm::emulate
