// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/decoder.h"

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm::emulate {

Result<Decoder> Decoder::create(CodeSize size) {
    csh handle = 0;
    const cs_mode mode = size == CodeSize::bits64 ? CS_MODE_64 : size == CodeSize::bits32 ? CS_MODE_32 : CS_MODE_16;
    const cs_err opened = cs_open(CS_ARCH_X86, mode, &handle);
    if (opened != CS_ERR_OK) {
        return fail(ErrorKind::system, std::string("cs_open: ") + cs_strerror(opened));
    }
    (void)cs_option(handle, CS_OPT_DETAIL, CS_OPT_ON);
    Decoder decoder(handle);
    if (!decoder.instruction_) {
        return fail(ErrorKind::system, "cs_malloc: Cannot allocate memory");
    }
    return decoder;
}

const cs_insn* Decoder::decode(std::span<const std::byte> bytes, std::uint64_t address) {
    const auto* code = reinterpret_cast<const std::uint8_t*>(bytes.data());
    std::size_t size = std::min(bytes.size(), kMaxInstruction);
    return cs_disasm_iter(*handle_, &code, &size, &address, instruction_.get()) ? instruction_.get() : nullptr;
}

Result<std::vector<DisassembledLine>> disassemble(CodeSize size, std::span<const std::byte> bytes,
                                                  std::uint64_t address, std::size_t max_instructions) {
    Decoder decoder = TRY(Decoder::create(size));
    std::vector<DisassembledLine> lines;
    while (!bytes.empty() && lines.size() < max_instructions) {
        const cs_insn* instruction = decoder.decode(bytes, address);
        DisassembledLine line{.address = address, .bytes = {}, .text = "(bad)"};
        std::size_t length = 1;
        if (instruction != nullptr) {
            length = instruction->size;
            line.text = instruction->mnemonic;
            if (instruction->op_str[0] != '\0') {
                line.text += std::string(" ") + instruction->op_str;
            }
        }
        line.bytes.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
        lines.push_back(std::move(line));
        bytes = bytes.subspan(length);
        address += length;
    }
    return lines;
}

}  // namespace snapvm::emulate
