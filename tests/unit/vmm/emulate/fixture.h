// SPDX-License-Identifier: Apache-2.0
// Runs an instruction twice: vmm/emulate executes it on a fake processor, and the host's processor
// executes it natively at CPL 3.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "vmm/emulate/decoder.h"
#include "vmm/emulate/instructions.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::emulate::test {

using Bytes = std::vector<std::uint8_t>;

/// Sixteen registers by their encoding (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15), and the
/// flags.
struct Registers {
    std::array<std::uint64_t, 16> general{};
    std::uint64_t rflags = 2;
};
inline constexpr std::size_t kRax = 0, kRcx = 1, kRdx = 2, kRbx = 3, kRsp = 4, kRbp = 5, kRsi = 6, kRdi = 7;
/// The flags that instructions compute.
inline constexpr std::uint64_t kComputedFlags =
    kFlagCarry | kFlagParity | kFlagAdjust | kFlagZero | kFlagSign | kFlagOverflow;

/// Extended state in memory.
class FakeExtendedState final : public ExtendedState {
public:
    Result<std::vector<std::byte>> load() override { return image; }
    Status store(std::span<const std::byte> now) override {
        image.assign(now.begin(), now.end());
        return {};
    }
    Result<std::uint64_t> xcr0() override { return enabled; }

    std::vector<std::byte> image = std::vector<std::byte>(4096);
    std::uint64_t enabled = 7;
};

/// A processor at CPL 0 in 64-bit mode without paging. Linear addresses are those of its 1 MiB of
/// memory.
class Processor {
public:
    static constexpr std::uint64_t kCode = 0x1000;
    static constexpr std::uint64_t kData = 0x8000;
    static constexpr std::uint64_t kMemory = 1 << 20;

    Processor() {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kMemory}, PagePolicy::small_pages));
        memory = *GuestMemory::of(std::move(blocks));
        cpu.sregs.cs.l = 1;
        cpu.sregs.efer = 1ULL << 10;
        cpu.sregs.cr4 = kCr4Osxsave | kCr4FsGsBase | kCr4Smap | kCr4ProtectionKeys;
        cpu.regs.rflags = 2;
        cpu.regs.rip = kCode;
    }

    /// Runs one instruction at any RIP.
    Executed run(const Bytes& code) {
        AddressSpace space(memory, PagingMode::of(cpu.sregs));
        const auto bytes = std::as_bytes(std::span(code));
        return execute(decoder.decode(bytes, cpu.regs.rip), bytes, cpu, space, extended);
    }
    template <class T>
    T at(std::uint64_t address) const {
        return *memory.load<T>(Gpa{address});
    }
    template <class T>
    void put(std::uint64_t address, const T& value) {
        ASSERT_TRUE(memory.store(Gpa{address}, value).has_value());
    }

    GuestMemory memory;
    CpuState cpu;
    FakeExtendedState extended;
    Decoder decoder = *Decoder::create(CodeSize::bits64);
};

inline void put_registers(CpuState& cpu, const Registers& from) {
    auto& regs = cpu.regs;
    __u64* const all[] = {&regs.rax, &regs.rcx, &regs.rdx, &regs.rbx, &regs.rsp, &regs.rbp, &regs.rsi, &regs.rdi,
                          &regs.r8,  &regs.r9,  &regs.r10, &regs.r11, &regs.r12, &regs.r13, &regs.r14, &regs.r15};
    for (std::size_t i = 0; i < 16; ++i) {
        *all[i] = from.general[i];
    }
    regs.rflags = from.rflags;
}

inline Registers registers_of(const CpuState& cpu) {
    const auto& regs = cpu.regs;
    return {{regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9, regs.r10,
             regs.r11, regs.r12, regs.r13, regs.r14, regs.r15},
            regs.rflags};
}

/// Runs `code` natively with all registers but RSP as given. RSP keeps its value.
inline Registers run_natively(const Bytes& code, const Registers& from) {
    constexpr std::size_t kSize = 4096;
    static auto* page = static_cast<std::uint8_t*>(
        ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memcpy(page, code.data(), code.size());
    page[code.size()] = 0xC3;  // ret
    struct {
        Registers registers;
        void* code;
    } call = {from, page};
    // The address of `call` is on the stack while its register holds another value. The code skips
    // the red zone.
    asm volatile(R"(
        sub $128, %%rsp
        push %%rbp
        push %%rbx
        push %%rax
        mov %%rax, %%r15
        push 128(%%r15)
        popfq
        mov 8(%%r15), %%rcx
        mov 16(%%r15), %%rdx
        mov 24(%%r15), %%rbx
        mov 40(%%r15), %%rbp
        mov 48(%%r15), %%rsi
        mov 56(%%r15), %%rdi
        mov 64(%%r15), %%r8
        mov 72(%%r15), %%r9
        mov 80(%%r15), %%r10
        mov 88(%%r15), %%r11
        mov 96(%%r15), %%r12
        mov 104(%%r15), %%r13
        mov 112(%%r15), %%r14
        push 136(%%r15)
        mov (%%r15), %%rax
        mov 120(%%r15), %%r15
        call *(%%rsp)
        push %%r15
        mov 16(%%rsp), %%r15
        mov %%rax, (%%r15)
        pop 120(%%r15)
        lea 8(%%rsp), %%rsp
        pushfq
        pop 128(%%r15)
        mov %%rcx, 8(%%r15)
        mov %%rdx, 16(%%r15)
        mov %%rbx, 24(%%r15)
        mov %%rbp, 40(%%r15)
        mov %%rsi, 48(%%r15)
        mov %%rdi, 56(%%r15)
        mov %%r8, 64(%%r15)
        mov %%r9, 72(%%r15)
        mov %%r10, 80(%%r15)
        mov %%r11, 88(%%r15)
        mov %%r12, 96(%%r15)
        mov %%r13, 104(%%r15)
        mov %%r14, 112(%%r15)
        pop %%rax
        pop %%rbx
        pop %%rbp
        add $128, %%rsp
    )"
                 :
                 : "a"(&call)
                 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
    return call.registers;
}

/// Returns the exception in which an instruction ended, if it did.
inline std::optional<Exception> exception_of(const Executed& done) {
    if (done) {
        return std::nullopt;
    }
    const auto* exception = std::get_if<Exception>(&done.error());
    return exception == nullptr ? std::nullopt : std::optional(*exception);
}
inline bool is_unknown(const Executed& done) { return !done && std::holds_alternative<NotEmulated>(done.error()); }

}  // namespace snapvm::emulate::test
