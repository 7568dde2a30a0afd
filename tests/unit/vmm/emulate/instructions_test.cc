// SPDX-License-Identifier: Apache-2.0
// Each instruction form beside what the same bytes do natively, where CPL 3 may have them; by the
// manual's words where not.
#include <array>
#include <random>

#include "tests/unit/vmm/emulate/fixture.h"

namespace snapvm::emulate {
namespace {

using test::Bytes;
using test::exception_of;
using test::is_unknown;
using test::kComputedFlags;
using test::kRbx;
using test::kRcx;
using test::kRdx;
using test::kRsp;
using test::Processor;
using test::Registers;

// Native runs read and write these; emulated ones read and write the same bytes at
// Processor::kData.
struct alignas(64) Buffer {
    std::array<std::uint8_t, 256> bytes{};
};

Registers random_registers(std::mt19937_64& random) {
    Registers registers;
    for (std::uint64_t& value : registers.general) {
        // Few bits, many, all, none: edges come often.
        const std::uint64_t any = random();
        switch (random() % 4) {
            case 0: value = any; break;
            case 1: value = any & random() & random(); break;
            case 2: value = 0; break;
            default: value = ~0ULL; break;
        }
    }
    registers.rflags = 2 | (random() & kComputedFlags);
    return registers;
}

// `pointer`: the register that the form takes for its memory operand. Compares all other registers,
// the computed flags and the memory.
void compare(const Bytes& code, std::size_t pointer, std::uint64_t pointer_offset, unsigned seed) {
    std::mt19937_64 random(seed);
    for (int round = 0; round < 200; ++round) {
        Registers registers = random_registers(random);
        Buffer native_memory;
        for (std::uint8_t& byte : native_memory.bytes) {
            byte = static_cast<std::uint8_t>(random() % 3 == 0 ? 0 : random());
        }
        // So that CMPXCHG16B finds what it expects now and then.
        if (random() % 2 == 0) {
            std::memcpy(native_memory.bytes.data() + 16, &registers.general[0], 8);
            std::memcpy(native_memory.bytes.data() + 24, &registers.general[kRdx], 8);
        }
        Processor processor;
        processor.put(Processor::kData, native_memory.bytes);
        Registers emulated = registers;
        registers.general[pointer] = reinterpret_cast<std::uint64_t>(&native_memory) - pointer_offset;
        emulated.general[pointer] = Processor::kData - pointer_offset;
        put_registers(processor.cpu, emulated);
        const Registers expected = test::run_natively(code, registers);
        ASSERT_TRUE(processor.run(code).has_value());
        const Registers got = test::registers_of(processor.cpu);
        for (std::size_t i = 0; i < 16; ++i) {
            if (i != pointer && i != kRsp) {
                ASSERT_EQ(got.general[i], expected.general[i]) << "register " << i << ", round " << round;
            }
        }
        ASSERT_EQ(got.rflags & kComputedFlags, expected.rflags & kComputedFlags) << "round " << round;
        ASSERT_EQ(processor.at<decltype(native_memory.bytes)>(Processor::kData), native_memory.bytes)
            << "round " << round;
        ASSERT_EQ(processor.cpu.regs.rip, Processor::kCode + code.size());
    }
}

struct Form {
    const char* name;
    Bytes code;
    std::size_t pointer;
    std::uint64_t offset = 0;
};

class NativeForms : public ::testing::TestWithParam<Form> {};

TEST_P(NativeForms, DoWhatTheProcessorDoes) { compare(GetParam().code, GetParam().pointer, GetParam().offset, 1); }

constexpr std::size_t kR8 = 8, kR13 = 13, kRsi = 6, kNone = kRsp;

INSTANTIATE_TEST_SUITE_P(
    PopcntAndCompareExchange, NativeForms,
    ::testing::Values(
        Form{"popcnt_rax_rdi", {0xF3, 0x48, 0x0F, 0xB8, 0xC7}, kNone},
        Form{"popcnt_eax_edi", {0xF3, 0x0F, 0xB8, 0xC7}, kNone},
        Form{"popcnt_ax_di", {0x66, 0xF3, 0x0F, 0xB8, 0xC7}, kNone},
        Form{"popcnt_r9d_r10d", {0xF3, 0x45, 0x0F, 0xB8, 0xCA}, kNone},
        Form{"popcnt_rdx_rdx", {0xF3, 0x48, 0x0F, 0xB8, 0xD2}, kNone},
        Form{"popcnt_rax_mem_rsi", {0xF3, 0x48, 0x0F, 0xB8, 0x06}, kRsi},
        Form{"popcnt_ecx_mem_rsi_disp8", {0xF3, 0x0F, 0xB8, 0x4E, 0x24}, kRsi},
        Form{"popcnt_cx_mem_rsi_disp32", {0x66, 0xF3, 0x0F, 0xB8, 0x8E, 0x40, 0, 0, 0}, kRsi},
        Form{"popcnt_rax_mem_r13_disp8", {0xF3, 0x49, 0x0F, 0xB8, 0x45, 0x08}, kR13},
        Form{"popcnt_rax_mem_r8_negative", {0xF3, 0x49, 0x0F, 0xB8, 0x40, 0xF8}, kR8, 0xFFFF'FFFF'FFFF'FFF8},
        Form{"cmpxchg16b_rsi", {0x48, 0x0F, 0xC7, 0x4E, 0x10}, kRsi},
        Form{"lock_cmpxchg16b_rsi", {0xF0, 0x48, 0x0F, 0xC7, 0x4E, 0x10}, kRsi},
        Form{"cmpxchg16b_gs_rsi", {0x65, 0x48, 0x0F, 0xC7, 0x4E, 0x10}, kRsi},
        Form{"cmpxchg16b_r8", {0x49, 0x0F, 0xC7, 0x48, 0x10}, kR8}),
    [](const auto& form) { return form.param.name; });

TEST(Emulate, AddressesHaveScaleSegmentBaseAndRip) {
    Processor processor;
    processor.put(Processor::kData + 0x28, std::uint64_t{0xFF});
    processor.cpu.regs.rsi = Processor::kData;
    processor.cpu.regs.r9 = 5;
    ASSERT_TRUE(processor.run({0xF3, 0x4A, 0x0F, 0xB8, 0x04, 0xCE}).has_value());  // popcnt (%rsi,%r9,8), %rax
    EXPECT_EQ(processor.cpu.regs.rax, 8U);
    processor.cpu.sregs.gs.base = Processor::kData;
    processor.cpu.regs.rax = 0;
    // popcnt %gs:0x28, %rax
    ASSERT_TRUE(processor.run({0x65, 0xF3, 0x48, 0x0F, 0xB8, 0x04, 0x25, 0x28, 0, 0, 0}).has_value());
    EXPECT_EQ(processor.cpu.regs.rax, 8U);
    // RIP-relative: from the next instruction on.
    processor.cpu.regs.rax = 0;
    processor.cpu.regs.rip = Processor::kData;
    ASSERT_TRUE(processor.run({0xF3, 0x48, 0x0F, 0xB8, 0x05, 0x28 - 9, 0, 0, 0}).has_value());
    EXPECT_EQ(processor.cpu.regs.rax, 8U);
    // A segment's base counts for FS and GS only in 64-bit mode.
    processor.cpu.sregs.ds.base = 0x1000;
    processor.cpu.regs.rax = 0;
    ASSERT_TRUE(processor.run({0xF3, 0x4A, 0x0F, 0xB8, 0x04, 0xCE}).has_value());
    EXPECT_EQ(processor.cpu.regs.rax, 8U);
    // A 32-bit address wraps.
    processor.cpu.regs.rax = 0;
    processor.cpu.regs.rsi = 0xFFFF'FFFF'0000'0000 | Processor::kData;
    ASSERT_TRUE(processor.run({0x67, 0xF3, 0x48, 0x0F, 0xB8, 0x46, 0x28}).has_value());
    EXPECT_EQ(processor.cpu.regs.rax, 8U);
}

TEST(Emulate, CompareExchangeWantsAlignmentAndMemory) {
    Processor processor;
    processor.cpu.regs.rsi = Processor::kData + 8;
    const auto misaligned = exception_of(processor.run({0x48, 0x0F, 0xC7, 0x0E}));
    ASSERT_TRUE(misaligned.has_value());
    EXPECT_EQ(misaligned->vector, kVectorGeneralProtection);
    EXPECT_EQ(misaligned->error_code, 0U);
    EXPECT_EQ(processor.cpu.regs.rip, Processor::kCode);
    processor.cpu.regs.rsi = 0xD000'0000;
    EXPECT_TRUE(is_unknown(processor.run({0x48, 0x0F, 0xC7, 0x0E})));
}

TEST(Emulate, AddressesThatAreNoneFault) {
    Processor processor;
    processor.put(Processor::kData, std::uint64_t{1});
    processor.cpu.regs.rsi = 0x8000'0000'0000'0000 | Processor::kData;
    const auto plain = exception_of(processor.run({0xF3, 0x48, 0x0F, 0xB8, 0x06}));
    ASSERT_TRUE(plain.has_value());
    EXPECT_EQ(plain->vector, kVectorGeneralProtection);
    processor.cpu.regs.rbp = processor.cpu.regs.rsi;
    const auto stack = exception_of(processor.run({0xF3, 0x48, 0x0F, 0xB8, 0x45, 0x00}));  // popcnt (%rbp), %rax
    ASSERT_TRUE(stack.has_value());
    EXPECT_EQ(stack->vector, kVectorStackFault);
    EXPECT_EQ(stack->error_code, 0U);
    // The last byte counts, too.
    processor.cpu.regs.rsi = 0x0000'7FFF'FFFF'FFFC;
    EXPECT_EQ(exception_of(processor.run({0xF3, 0x48, 0x0F, 0xB8, 0x06})).value_or(Exception{}).vector,
              kVectorGeneralProtection);
}

TEST(Emulate, BreakpointAndSoftwareInterruptAreTraps) {
    Processor processor;
    const auto breakpoint = exception_of(processor.run({0xCC}));
    ASSERT_TRUE(breakpoint.has_value());
    EXPECT_EQ(breakpoint->vector, 3);
    EXPECT_TRUE(breakpoint->after);
    EXPECT_FALSE(breakpoint->software_interrupt);
    EXPECT_EQ(processor.cpu.regs.rip, Processor::kCode + 1);
    const auto interrupt = exception_of(processor.run({0xCD, 0x80}));
    ASSERT_TRUE(interrupt.has_value());
    EXPECT_EQ(interrupt->vector, 0x80);
    EXPECT_TRUE(interrupt->software_interrupt);
    EXPECT_EQ(processor.cpu.regs.rip, Processor::kCode + 3);
}

TEST(Emulate, AlignmentCheckFlagIsTheKernels) {
    Processor processor;
    ASSERT_TRUE(processor.run({0x0F, 0x01, 0xCB}).has_value());  // stac
    EXPECT_NE(processor.cpu.regs.rflags & kFlagAlignmentCheck, 0U);
    ASSERT_TRUE(processor.run({0x0F, 0x01, 0xCA}).has_value());  // clac
    EXPECT_EQ(processor.cpu.regs.rflags & kFlagAlignmentCheck, 0U);
    processor.cpu.sregs.cr4 &= ~kCr4Smap;
    EXPECT_TRUE(processor.run({0x0F, 0x01, 0xCB}).has_value()) << "whether SMAP is on does not matter";
    processor.cpu.sregs.ss.dpl = 3;
    EXPECT_EQ(exception_of(processor.run({0x0F, 0x01, 0xCB})).value_or(Exception{}).vector, kVectorInvalidOpcode);
}

TEST(Emulate, WaitRaisesWhatTheX87HasPending) {
    Processor processor;
    EXPECT_TRUE(processor.run({0x9B}).has_value());
    processor.extended.image[2] = std::byte{0x80};  // the error summary of the status word
    EXPECT_EQ(exception_of(processor.run({0x9B})).value_or(Exception{}).vector, kVectorX87);
    processor.cpu.sregs.cr0 |= kCr0TaskSwitched | kCr0MonitorCoprocessor;
    EXPECT_EQ(exception_of(processor.run({0x9B})).value_or(Exception{}).vector, kVectorDeviceNotAvailable);
}

TEST(Emulate, RandomNumbersDifferAndSaySo) {
    for (const std::uint8_t modrm : {0xF0, 0xF8}) {  // rdrand, rdseed
        Processor processor;
        processor.cpu.regs.rflags = 2 | kFlagOverflow | kFlagZero;
        ASSERT_TRUE(processor.run({0x48, 0x0F, 0xC7, modrm}).has_value());
        const std::uint64_t first = processor.cpu.regs.rax;
        EXPECT_EQ(processor.cpu.regs.rflags & kComputedFlags, kFlagCarry);
        ASSERT_TRUE(processor.run({0x48, 0x0F, 0xC7, modrm}).has_value());
        EXPECT_NE(processor.cpu.regs.rax, first);
        ASSERT_TRUE(processor.run({0x0F, 0xC7, modrm}).has_value());  // 32 bits clear the upper half
        EXPECT_EQ(processor.cpu.regs.rax >> 32, 0U);
    }
    Processor processor;
    EXPECT_TRUE(is_unknown(processor.run({0xF3, 0x0F, 0xC7, 0xF8})));  // RDPID, which Capstone takes for RDSEED
}

TEST(Emulate, SegmentBases) {
    Processor processor;
    processor.cpu.sregs.fs.base = 0x1234;
    ASSERT_TRUE(processor.run({0xF3, 0x48, 0x0F, 0xAE, 0xC0}).has_value());  // rdfsbase %rax
    EXPECT_EQ(processor.cpu.regs.rax, 0x1234U);
    EXPECT_FALSE(processor.cpu.sregs_changed);
    processor.cpu.regs.rax = 0xFFFF'8880'0000'0000;
    ASSERT_TRUE(processor.run({0xF3, 0x48, 0x0F, 0xAE, 0xD8}).has_value());  // wrgsbase %rax
    EXPECT_EQ(processor.cpu.sregs.gs.base, 0xFFFF'8880'0000'0000U);
    EXPECT_TRUE(processor.cpu.sregs_changed);
    processor.cpu.regs.rax = 0x8000'0000'0000'0000;  // not canonical
    EXPECT_EQ(exception_of(processor.run({0xF3, 0x48, 0x0F, 0xAE, 0xD8})).value_or(Exception{}).vector,
              kVectorGeneralProtection);
    processor.cpu.sregs.cr4 &= ~kCr4FsGsBase;
    EXPECT_EQ(exception_of(processor.run({0xF3, 0x48, 0x0F, 0xAE, 0xD8})).value_or(Exception{}).vector,
              kVectorInvalidOpcode);
}

class Descriptors : public ::testing::Test {
protected:
    static constexpr std::uint64_t kGdt = Processor::kData;
    Descriptors() {
        processor.cpu.sregs.gdt = {.base = kGdt, .limit = 0x3F, .padding = {}};
        processor.put(kGdt + 0x08, std::uint64_t{0x00AF'9B00'0000'FFFF});  // code, DPL 0, pages
        processor.put(kGdt + 0x10, std::uint64_t{0x00CF'F300'0000'FFFF});  // data, DPL 3, pages, writable
        processor.put(kGdt + 0x18,
                      std::uint64_t{0x0000'F500'0000'1003});  // data, DPL 3, bytes: as Linux keeps a CPU's number
        processor.put(kGdt + 0x20, std::uint64_t{0x0000'8900'0000'0067});  // TSS
        processor.put(kGdt + 0x28, std::uint64_t{0x0000'8E00'0000'0000});  // interrupt gate
        processor.put(kGdt + 0x30, std::uint64_t{0x00AF'9E00'0000'FFFF});  // conforming code, DPL 0
    }
    // The answer in RAX; nothing where ZF says that there is none.
    std::optional<std::uint64_t> ask(const Bytes& code, std::uint64_t selector) {
        processor.cpu.regs.rcx = selector;
        processor.cpu.regs.rax = 0x5555;
        EXPECT_TRUE(processor.run(code).has_value());
        if ((processor.cpu.regs.rflags & kFlagZero) == 0) {
            EXPECT_EQ(processor.cpu.regs.rax, 0x5555U);
            return std::nullopt;
        }
        return processor.cpu.regs.rax;
    }
    const Bytes lsl{0x48, 0x0F, 0x03, 0xC1}, lar{0x48, 0x0F, 0x02, 0xC1};  // of %rcx, into %rax
    const Bytes verr{0x0F, 0x00, 0xE1}, verw{0x0F, 0x00, 0xE9};  // of %cx
    Processor processor;
};

TEST_F(Descriptors, LimitsAndRights) {
    EXPECT_EQ(ask(lsl, 0x08), 0xFFFF'FFFFU);
    EXPECT_EQ(ask(lsl, 0x1B), 0x1003U);
    EXPECT_EQ(ask(lsl, 0x20), 0x67U);
    EXPECT_EQ(ask(lsl, 0x28), std::nullopt);
    EXPECT_EQ(ask(lsl, 0), std::nullopt);
    EXPECT_EQ(ask(lsl, 0x40), std::nullopt);  // beyond the table
    EXPECT_EQ(ask(lsl, 0x0C), std::nullopt);  // no LDT
    EXPECT_EQ(ask(lar, 0x08), 0x00A0'9B00U);
    EXPECT_EQ(ask(lar, 0x10), 0x00C0'F300U);
}

TEST_F(Descriptors, PrivilegeDecides) {
    processor.cpu.sregs.ss.dpl = 3;
    EXPECT_EQ(ask(lsl, 0x08), std::nullopt);
    EXPECT_EQ(ask(lsl, 0x10), 0xFFFF'FFFFU);
    EXPECT_EQ(ask(lsl, 0x30), 0xFFFF'FFFFU);  // conforming
    processor.cpu.sregs.ss.dpl = 0;
    EXPECT_EQ(ask(lsl, 0x0B), std::nullopt);  // RPL 3: the rights of a program count
}

TEST_F(Descriptors, Verify) {
    const auto holds = [&](const Bytes& code, std::uint64_t selector) {
        processor.cpu.regs.rcx = selector;
        EXPECT_TRUE(processor.run(code).has_value());
        return (processor.cpu.regs.rflags & kFlagZero) != 0;
    };
    EXPECT_TRUE(holds(verr, 0x08));
    EXPECT_FALSE(holds(verw, 0x08));
    EXPECT_TRUE(holds(verw, 0x10));
    EXPECT_FALSE(holds(verw, 0x18));  // read only
    EXPECT_FALSE(holds(verr, 0x20));
}

TEST(Emulate, WhatIsNotKnownChangesNothing) {
    const Bytes unknown[] = {
        {0x0F, 0x0B},  // ud2
        {0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC0},  // vaddps %zmm0, %zmm0, %zmm0
        {0x06},  // nothing in 64-bit mode
        {0xF3},  // cut off
        {},
        {0x0F, 0x05},  // syscall
        {0xE8, 0, 0, 0, 0},  // call
    };
    for (const Bytes& code : unknown) {
        Processor processor;
        processor.cpu.regs.rsp = Processor::kData;
        const CpuState before = processor.cpu;
        EXPECT_TRUE(is_unknown(processor.run(code)));
        EXPECT_EQ(std::memcmp(&processor.cpu.regs, &before.regs, sizeof before.regs), 0);
    }
}

// A page that may not be written: the instruction ends in the fault, with nothing changed.
TEST(Emulate, PageFaultsAreTheGuests) {
    Processor processor;
    // Four levels at 0x10000, all through their first entries; the page of kData read-only, user.
    processor.put(0x10000, std::uint64_t{0x11007});
    processor.put(0x11000, std::uint64_t{0x12007});
    processor.put(0x12000, std::uint64_t{0x13007});
    processor.put(0x13000 + 8 * (Processor::kData >> 12), Processor::kData | 5);
    processor.cpu.sregs.cr0 = 0x8001'0001;  // PG, WP, PE
    processor.cpu.sregs.cr4 |= 0x20;
    processor.cpu.sregs.cr3 = 0x10000;
    processor.cpu.regs.rsi = Processor::kData;
    processor.cpu.regs.rflags |= kFlagAlignmentCheck;
    const auto write = exception_of(processor.run({0x48, 0x0F, 0xC7, 0x0E}));
    ASSERT_TRUE(write.has_value());
    EXPECT_EQ(write->vector, kVectorPageFault);
    EXPECT_EQ(write->error_code, 3U);
    EXPECT_EQ(write->cr2, Processor::kData);
    // SMAP: a user page is closed to the kernel unless it says STAC.
    processor.cpu.regs.rflags = 2;
    const auto closed = exception_of(processor.run({0xF3, 0x48, 0x0F, 0xB8, 0x06}));
    ASSERT_TRUE(closed.has_value());
    EXPECT_EQ(closed->error_code, 1U);
    processor.cpu.regs.rsi = 0x7000'0000'0000;
    const auto unmapped = exception_of(processor.run({0xF3, 0x48, 0x0F, 0xB8, 0x06}));
    ASSERT_TRUE(unmapped.has_value());
    EXPECT_EQ(unmapped->error_code, 0U);
    EXPECT_EQ(unmapped->cr2, 0x7000'0000'0000U);
}

}  // namespace
}  // namespace snapvm::emulate
