// SPDX-License-Identifier: Apache-2.0
// Any bytes as an instruction, on any registers, page tables and extended state. The instruction is
// executed, raises an exception, or is not known. An executed one must move RIP, by at most the
// size of the longest instruction.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "vmm/emulate/decoder.h"
#include "vmm/emulate/instructions.h"
#include "vmm/emulate/system_call.h"

namespace {

using namespace snapvm;
using namespace snapvm::emulate;

constexpr std::uint64_t kMemory = 64 << 10;

class Extended final : public ExtendedState {
public:
    Result<std::vector<std::byte>> load() override { return image; }
    Status store(std::span<const std::byte> now) override {
        if (now.size() != image.size()) {
            std::abort();
        }
        return {};
    }
    Result<std::uint64_t> xcr0() override { return enabled; }
    std::vector<std::byte> image = std::vector<std::byte>(4096);
    std::uint64_t enabled = 0;
};

template <class T>
void take(std::span<const std::uint8_t>& from, T& value) {
    const std::size_t size = std::min(sizeof value, from.size());
    std::memcpy(&value, from.data(), size);
    from = from.subspan(size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static GuestMemory memory = [] {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kMemory}, PagePolicy::small_pages));
        return *GuestMemory::of(std::move(blocks));
    }();
    static Decoder decoder = *Decoder::create(CodeSize::bits64);
    std::span<const std::uint8_t> rest(data, size);
    std::array<std::byte, kMaxInstruction> code{};
    take(rest, code);
    CpuState cpu;
    Extended extended;
    take(rest, cpu.regs);
    take(rest, cpu.sregs.cr0);
    take(rest, cpu.sregs.cr3);
    take(rest, cpu.sregs.cr4);
    take(rest, cpu.sregs.efer);
    take(rest, cpu.sregs.gdt);
    take(rest, cpu.sregs.cs.l);
    take(rest, cpu.sregs.ss.dpl);
    take(rest, extended.enabled);
    auto bytes = *memory.span(Gpa{0}, kMemory);
    std::ranges::fill(bytes, std::byte{0});
    std::memcpy(bytes.data(), rest.data(), std::min<std::size_t>(rest.size(), kMemory));

    AddressSpace space(memory, PagingMode::of(cpu.sregs));
    const CpuState before = cpu;
    const Executed done = execute(decoder.decode(code, cpu.regs.rip), code, cpu, space, extended);
    if (done) {
        if (cpu.regs.rip - before.regs.rip > kMaxInstruction || cpu.regs.rip == before.regs.rip) {
            std::abort();
        }
    } else if (const auto* exception = std::get_if<Exception>(&done.error());
               exception == nullptr || !exception->after) {
        if (std::memcmp(&cpu.regs, &before.regs, sizeof cpu.regs) != 0) {
            std::abort();
        }
    }
    cpu.sregs.idt = cpu.sregs.gdt;
    (void)page_fault_entry(cpu.sregs, space);
    const PageFaultFrame anywhere{.rip = cpu.sregs.cr2};
    (void)become_system_call(cpu, fetch_of_program(cpu, space).value_or(anywhere),
                             {.star = cpu.regs.rax, .lstar = cpu.sregs.cr2, .fmask = cpu.regs.rdx}, space);
    return 0;
}
