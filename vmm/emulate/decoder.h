// SPDX-License-Identifier: Apache-2.0
// Instructions, taken apart by Capstone.
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

/// How the processor reads code: of CS and EFER.
enum class CodeSize : std::uint8_t { bits16, bits32, bits64 };

/// x86 has no longer ones.
inline constexpr std::size_t kMaxInstruction = 15;

/// Owns a Capstone handle. One thread at a time.
class Decoder {
public:
    /// Fails where there is no memory.
    static Result<Decoder> create(CodeSize size);

    /// The first instruction of `bytes`, which lie at `address`; null where they are none. Valid until the next call.
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
    std::string text;  ///< Intel's syntax; "(bad)" where the bytes are no instruction
};

/// Up to `most` instructions from `address` on, as far as `bytes` go.
[[nodiscard]] Result<std::vector<DisassembledLine>> disassemble(CodeSize size, std::span<const std::byte> bytes,
                                                                std::uint64_t address, std::size_t most);

}  // namespace snapvm::emulate
