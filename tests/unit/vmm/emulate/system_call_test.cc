// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/system_call.h"

#include "tests/unit/vmm/emulate/fixture.h"

namespace snapvm::emulate {
namespace {

using test::Processor;

constexpr std::uint64_t kLstar = 0xFFFF'FFFF'8140'0040;
constexpr std::uint64_t kStack = 0x9000;
constexpr std::uint64_t kReturn = 0x5002;
constexpr SystemCallMsrs kMsrs{.star = 0x0023'0010'0000'0000, .lstar = kLstar, .fmask = 0x25'7FD5};

// At the entry of page faults, after a SYSCALL that stayed at CPL 3.
class Fault : public ::testing::Test {
protected:
    Fault() {
        cpu = processor.cpu;
        cpu.sregs.efer |= 1;
        cpu.sregs.cr2 = kLstar;
        cpu.regs.rip = 0xFFFF'FFFF'8140'0B00;
        cpu.regs.rsp = kStack;
        cpu.regs.rcx = kReturn;
        processor.put(kReturn - 2, std::uint16_t{0x050F});
        cpu.regs.r11 = 0x246;
        push({0x15, kLstar, 0x33, 0x10002, 0x7FFF'875F'BC70, 0x2B});
    }
    void push(const std::array<std::uint64_t, 6>& frame) { processor.put(kStack, frame); }
    bool taken() {
        const AddressSpace space(processor.memory, PagingMode::of(cpu.sregs));
        const auto fetch = fetch_of_program(cpu, space);
        return fetch && become_system_call(cpu, *fetch, kMsrs, space);
    }
    Processor processor;
    CpuState cpu;
};

TEST_F(Fault, OfASystemCallBecomesOne) {
    ASSERT_TRUE(taken());
    EXPECT_EQ(cpu.regs.rip, kLstar);
    EXPECT_EQ(cpu.regs.rsp, 0x7FFF'875F'BC70U);
    EXPECT_EQ(cpu.regs.rcx, kReturn);
    EXPECT_EQ(cpu.regs.r11, 0x246U);
    EXPECT_EQ(cpu.regs.rflags, 2U);  // 0x246 without what FMASK has
    EXPECT_EQ(cpu.sregs.cs.selector, 0x10);
    EXPECT_EQ(cpu.sregs.cs.dpl, 0);
    EXPECT_EQ(cpu.sregs.cs.l, 1);
    EXPECT_EQ(cpu.sregs.ss.selector, 0x18);
    EXPECT_EQ(cpu.sregs.ss.dpl, 0);
    EXPECT_TRUE(cpu.sregs_changed);
}

// R11 may be the program's own work.
TEST_F(Fault, FlagsThatNoProgramCanHaveAreCutOff) {
    cpu.regs.r11 = ~0ULL;
    ASSERT_TRUE(taken());
    EXPECT_EQ(cpu.regs.r11, 0x24'4FD7U);
    EXPECT_EQ(cpu.regs.rflags, (0x24'4FD7U & ~kMsrs.fmask) | 2);
}

TEST_F(Fault, AJumpIsNone) {
    processor.put(kReturn - 2, std::uint16_t{0x9090});
    EXPECT_FALSE(taken());
    processor.put(kReturn - 2, std::uint16_t{0x050F});
    cpu.regs.rcx = 0x8000'0000'0000'0000 | kReturn;  // the address of the SYSCALL if the upper bits are ignored
    EXPECT_FALSE(taken());
}

TEST_F(Fault, IsAFetchOfAProgramOrNot) {
    const auto is_fetch = [&] {
        return fetch_of_program(cpu, AddressSpace(processor.memory, PagingMode::of(cpu.sregs))).has_value();
    };
    EXPECT_TRUE(is_fetch());
    push({0x15, 0x401000, 0x33, 0x10002, 0x7FFF'875F'BC70, 0x2B});
    EXPECT_FALSE(is_fetch());
    push({0x07, kLstar, 0x33, 0x10002, 0x7FFF'875F'BC70, 0x2B});
    EXPECT_FALSE(is_fetch());
}

TEST_F(Fault, OfAnythingElseStaysOne) {
    const CpuState before = cpu;
    push({0x14, 0x401000, 0x33, 0x10202, 0x7FFF'875F'BC70, 0x2B});  // elsewhere
    EXPECT_FALSE(taken());
    push({0x15, kLstar, 0x10, 0x10002, 0x7FFF'875F'BC70, 0x18});  // the kernel itself
    EXPECT_FALSE(taken());
    push({0x05, kLstar, 0x33, 0x10002, 0x7FFF'875F'BC70, 0x2B});  // a read of that address
    EXPECT_FALSE(taken());
    push({0x15, kLstar, 0x33, 0x10002, 0x7FFF'875F'BC70, 0x2B});
    cpu.sregs.cr2 = kLstar + 1;
    EXPECT_FALSE(taken());
    cpu.sregs.cr2 = kLstar;
    cpu.sregs.efer &= ~1ULL;  // system calls are off
    EXPECT_FALSE(taken());
    cpu.sregs.efer |= 1;
    cpu.regs.rsp = 0xFFFF'0000'0000;  // no stack there (memory ends before)
    EXPECT_FALSE(taken());
    EXPECT_EQ(cpu.regs.rip, before.regs.rip);
    EXPECT_FALSE(cpu.sregs_changed);
}

TEST(PageFaultEntry, IsInTheGate) {
    Processor processor;
    processor.cpu.sregs.idt = {.base = 0x3000, .limit = 0xFFF, .padding = {}};
    const auto entry = [&] {
        return page_fault_entry(processor.cpu.sregs,
                                AddressSpace(processor.memory, PagingMode::of(processor.cpu.sregs)));
    };
    EXPECT_EQ(entry(), std::nullopt);  // not present
    processor.put(0x3000 + 14 * 16, std::array<std::uint64_t, 2>{0x8140'8E00'0010'0B00, 0xFFFF'FFFF});
    EXPECT_EQ(entry(), 0xFFFF'FFFF'8140'0B00U);
    processor.cpu.sregs.idt.limit = 14 * 16 + 14;
    EXPECT_EQ(entry(), std::nullopt);
    processor.cpu.sregs.idt = {.base = 0xFFFF'FFFF'FFFF'FF80, .limit = 0xFFF, .padding = {}};
    EXPECT_EQ(entry(), std::nullopt);
    processor.cpu.sregs.idt.base = 0x3000;
    processor.cpu.sregs.efer = 0;  // gates are half as long
    EXPECT_EQ(entry(), std::nullopt);
}

}  // namespace
}  // namespace snapvm::emulate
