// SPDX-License-Identifier: Apache-2.0
// Crash reports of vCPUs and memories that are made up, damaged ones above all.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <sstream>

#include "vmm/crash/capture.h"
#include "vmm/crash/report.h"

namespace snapvm {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMemory = 1ULL << 20;
constexpr std::uint64_t kHigh = 0xFFFF'FFFF'8000'0000;  // where the first 64 KiB of memory are mapped, too
constexpr Gpa kTables{0x80000};

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
        lines.push_back(line);
    }
    return lines;
}

class CrashReports : public testing::Test {
protected:
    CrashReports() {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kMemory}, PagePolicy::small_pages));
        memory_ = *GuestMemory::of(std::move(blocks));
        failed_.ending.exit = KVM_EXIT_SHUTDOWN;
        failed_.regs.emplace();
        failed_.sregs.emplace();
    }

    template <class T>
    void store(std::uint64_t at, const T& value) {
        ASSERT_TRUE(memory_.store(Gpa{at}, value));
    }
    void code(std::uint64_t at, std::initializer_list<unsigned> bytes) {
        for (const unsigned byte : bytes) {
            store(at++, static_cast<std::uint8_t>(byte));
        }
    }
    /// Long mode, CPL 0, four levels of tables: 64 KiB at kHigh.
    void long_mode() {
        kvm_sregs& sregs = *failed_.sregs;
        sregs.cr0 = 0x8000'0011;
        sregs.cr3 = kTables.value;
        sregs.cr4 = 0x20;
        sregs.efer = 0x500;
        sregs.cs = {.base = 0,
                    .limit = 0xFFFF'FFFF,
                    .selector = 0x10,
                    .type = 11,
                    .present = 1,
                    .dpl = 0,
                    .db = 0,
                    .s = 1,
                    .l = 1,
                    .g = 1,
                    .avl = 0,
                    .unusable = 0,
                    .padding = 0};
        const std::uint64_t table = kTables.value;
        store(table + 511 * 8, table + 0x1003);
        store(table + 0x1000 + 510 * 8, table + 0x2003);
        store(table + 0x2000, table + 0x3003);
        for (std::uint64_t page = 0; page < 16; ++page) {
            store(table + 0x3000 + page * 8, (page << 12) | 3);
        }
    }
    /// 32 bits, flat segments, no paging.
    void protected_mode() {
        kvm_sregs& sregs = *failed_.sregs;
        sregs.cr0 = 0x11;
        sregs.cs.db = sregs.ss.db = 1;
    }
    /// A frame at kHigh + `at`.
    void frame(std::uint64_t at, std::uint64_t saved_rbp, std::uint64_t returns_to) {
        store(at, saved_rbp);
        store(at + 8, returns_to);
    }
    CrashReport capture(std::span<const ConsoleTail> consoles = {}) {
        return capture_crash("it failed", failed_, memory_, consoles);
    }

    GuestMemory memory_;
    FailedVcpu failed_;
};

TEST_F(CrashReports, AFourLevelGuestIsShownWithCodeAndFrames) {
    long_mode();
    code(0x1000, {0x90, 0x48, 0x89, 0xE5, 0x0F, 0x0B, 0xF4});  // nop; mov rbp, rsp; ud2; hlt
    frame(0x2000, kHigh + 0x2100, kHigh + 0x1100);
    frame(0x2100, kHigh + 0x2200, kHigh + 0x1200);
    frame(0x2200, 0, kHigh + 0x1300);
    failed_.regs->rip = kHigh + 0x1004;
    failed_.regs->rbp = kHigh + 0x2000;
    failed_.regs->rax = 0x8765'4321'FEDC'BA98;
    failed_.regs->rflags = 0x246;
    const CrashReport report = capture();
    EXPECT_EQ(report.mode, "64-bit mode, CPL 0, 4-level paging");
    EXPECT_TRUE(report.left_out.empty()) << report.left_out.front();
    ASSERT_EQ(report.backtrace.size(), 4U) << report.backtrace_end;
    EXPECT_EQ(report.backtrace_end, "to the end, where RBP is 0");
    for (std::size_t i = 1; i < 4; ++i) {
        EXPECT_EQ(report.backtrace[i].rip, kHigh + 0x1000 + i * 0x100);
    }
    EXPECT_TRUE(report.stack.empty());

    const std::string text = to_text(report);
    for (const char* part :
         {"it failed\nvCPU 0: KVM_EXIT_SHUTDOWN (8); 64-bit mode", "RAX 87654321fedcba98",
          "RFLAGS 0000000000000246 [PF ZF IF]", "CS  0010 base 0000000000000000 limit ffffffff attr a09b",
          "CR3 00080000", "    ffffffff80001001  48 89 e5", "  > ffffffff80001004  0f 0b", "  ud2\n",
          "    ffffffff80001006  f4", "#0  ffffffff80001004  #1  ffffffff80001100"}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
    }

    const json crash = json::parse(to_json(report), nullptr, false)["crash"];
    EXPECT_EQ(crash["reason"], "it failed");
    EXPECT_EQ(crash["exit"]["name"], "KVM_EXIT_SHUTDOWN");
    EXPECT_EQ(crash["exit"]["number"], 8);
    EXPECT_EQ(crash["registers"]["rax"], "0x87654321fedcba98");
    EXPECT_EQ(crash["registers"]["cr3"], "0x80000");
    EXPECT_EQ(crash["segments"]["cs"]["attributes"], "0xa09b");
    EXPECT_EQ(crash["backtrace"].size(), 4U);
    EXPECT_EQ(crash["backtrace"][3]["rip"], "0xffffffff80001300");
    const auto current =
        std::ranges::find_if(crash["code"], [](const json& line) { return line.value("current", false); });
    ASSERT_NE(current, crash["code"].end());
    EXPECT_EQ((*current)["text"], "ud2");
    EXPECT_EQ((*current)["bytes"], "0f0b");
}

TEST_F(CrashReports, A32BitGuestWithoutPagingHasFramesOfFourBytes) {
    protected_mode();
    failed_.sregs->cs.base = 0x1000;
    code(0x1100, {0x0F, 0x0B});
    code(0x1200, {0x90});
    store(0x3000, std::array<std::uint32_t, 2>{0x3010, 0x200});
    store(0x3010, std::array<std::uint32_t, 2>{0, 0x204});
    failed_.regs->rip = 0x100;
    failed_.regs->rbp = 0x3000;
    const CrashReport report = capture();
    EXPECT_EQ(report.mode, "32-bit protected mode, CPL 0, no paging");
    EXPECT_EQ(report.code_address, 0x1100U) << "CS has a base";
    ASSERT_EQ(report.backtrace.size(), 3U) << report.backtrace_end;
    EXPECT_EQ(report.backtrace[1].rip, 0x200U);
    EXPECT_EQ(report.backtrace[2].rip, 0x204U);
}

TEST_F(CrashReports, RealModeReadsCodeAsOf16Bits) {
    failed_.sregs->cs.base = 0x7000;
    code(0x7C00, {0xB8, 0x34, 0x12, 0xF4});  // mov ax, 0x1234; hlt
    failed_.regs->rip = 0xC00;
    const CrashReport report = capture();
    EXPECT_EQ(report.mode, "real mode, CPL 0, no paging");
    EXPECT_NE(to_text(report).find("mov ax, 0x1234"), std::string::npos) << to_text(report);
    EXPECT_EQ(report.word_size, 2U);
}

TEST_F(CrashReports, FramesThatFormACircleOrNeverEndAreBounded) {
    long_mode();
    code(0x1000, {0xF4});
    failed_.regs->rip = kHigh + 0x1000;
    failed_.regs->rbp = kHigh + 0x2000;
    frame(0x2000, kHigh + 0x2000, kHigh + 0x1100);
    EXPECT_EQ(capture().backtrace.size(), 2U);
    frame(0x2000, kHigh + 0x2100, kHigh + 0x1100);
    frame(0x2100, kHigh + 0x2000, kHigh + 0x1200);
    CrashReport report = capture();
    EXPECT_EQ(report.backtrace.size(), 3U);
    EXPECT_NE(report.backtrace_end.find("must lie higher"), std::string::npos) << report.backtrace_end;
    for (std::uint64_t at = 0x2000; at < 0x3000; at += 16) {
        frame(at, kHigh + at + 16, kHigh + 0x1100);
    }
    report = capture();
    EXPECT_EQ(report.backtrace.size(), 16U);
    EXPECT_EQ(report.backtrace_end, "and further");
}

TEST_F(CrashReports, WhereRbpLeadsNowhereTheStackIsShown) {
    long_mode();
    code(0x1000, {0xF4});
    failed_.regs->rip = kHigh + 0x1000;
    failed_.regs->rsp = kHigh + 0xFFF0;  // two words below the end of what is mapped
    store(0xFFF0, std::array<std::uint64_t, 2>{0x1122'3344'5566'7788, 42});
    for (const std::uint64_t rbp :
         std::to_array<std::uint64_t>({kHigh + 0x10000, kHigh + 0xFFF8, ~0ULL, 1ULL << 62, 0})) {
        failed_.regs->rbp = rbp;
        const CrashReport report = capture();
        EXPECT_EQ(report.backtrace.size(), 1U) << std::hex << rbp;
        EXPECT_EQ(report.stack, (std::vector<std::uint64_t>{0x1122'3344'5566'7788, 42}));
        EXPECT_NE(to_text(report).find("1122334455667788"), std::string::npos);
    }
    // A frame that returns to where nothing is was none.
    failed_.regs->rbp = kHigh + 0x2000;
    frame(0x2000, kHigh + 0x2100, 0x1234'5678);
    EXPECT_EQ(capture().backtrace.size(), 1U);
    failed_.regs->rsp = 8;
    EXPECT_NE(to_text(capture()).find("Left out: the stack"), std::string::npos);
}

TEST_F(CrashReports, ARipThatLeadsNowhereIsSaidSo) {
    long_mode();
    // Not mapped; and where the bits that the tables translate are those of code, but the address
    // is not canonical.
    for (const std::uint64_t rip : std::to_array<std::uint64_t>({0x4000, kHigh ^ (1ULL << 60)})) {
        failed_.regs->rip = rip;
        const CrashReport report = capture();
        EXPECT_TRUE(report.code.empty());
        ASSERT_FALSE(report.left_out.empty());
        EXPECT_NE(report.left_out.front().find("code at RIP"), std::string::npos) << report.left_out.front();
    }
    // Tables where no memory is.
    failed_.sregs->cr3 = 0x7000'0000'0000;
    failed_.regs->rip = kHigh;
    EXPECT_TRUE(capture().code.empty());
}

TEST_F(CrashReports, BytesThatAreNoInstructionAreShownAsThat) {
    long_mode();
    code(0x1000, {0x06, 0x06, 0x90});  // push es: not in 64-bit mode
    failed_.regs->rip = kHigh + 0x1000;
    const CrashReport report = capture();
    ASSERT_GE(report.code.size(), 3U);
    const auto current = std::ranges::find(report.code, kHigh + 0x1000, &CrashReport::Instruction::address);
    ASSERT_NE(current, report.code.end());
    EXPECT_EQ(current->text, "(bad)");
    EXPECT_EQ((current + 2)->text, "nop");
}

TEST_F(CrashReports, CodeBeforeRipFallsIntoStepWithIt) {
    long_mode();
    // Instructions of seven bytes, then RIP right behind a ten-byte mov whose immediate reads as
    // others.
    for (std::uint64_t at = 0x1000; at < 0x1070; at += 7) {
        code(at, {0x48, 0x8B, 0x05, 0x10, 0x20, 0x30, 0x40});  // mov rax, [rip + 0x40302010]
    }
    code(0x1070, {0x48, 0xB8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xF4});
    failed_.regs->rip = kHigh + 0x107A;
    CrashReport report = capture();
    ASSERT_GE(report.code.size(), 2U);
    EXPECT_EQ(report.code_address, kHigh + 0x107A);
    const auto current = std::ranges::find(report.code, report.code_address, &CrashReport::Instruction::address);
    ASSERT_NE(current, report.code.begin());
    ASSERT_GE(current - report.code.begin(), 3);
    EXPECT_EQ((current - 1)->text, "movabs rax, 0x9090909090909090");
    EXPECT_EQ((current - 2)->address, kHigh + 0x1069);
    EXPECT_EQ((current - 3)->address, kHigh + 0x1062);
    // At the start of the first page that is mapped, and at the end of the last.
    code(0, {0x90});
    failed_.regs->rip = kHigh;
    EXPECT_EQ(capture().code.front().address, kHigh);
    code(0xFFFE, {0x90, 0xF4});
    failed_.regs->rip = kHigh + 0xFFFF;
    report = capture();
    EXPECT_EQ(report.code.back().address, kHigh + 0xFFFF);
    EXPECT_EQ(report.code.back().text, "hlt");
}

TEST_F(CrashReports, ConsolesAreShownAsTheirLastLines) {
    std::string many;
    for (int i = 0; i < 100; ++i) {
        many += "line " + std::to_string(i) + "\r\n";
    }
    const std::array tails{
        ConsoleTail{.name = "serial port", .bytes = many, .whole = false},
        ConsoleTail{
            .name = "virtio console", .bytes = std::string("\x1b[31mred\a\t\\ \xC3\xA4\0end", 18), .whole = true},
        ConsoleTail{.name = "silent", .bytes = "", .whole = true}};
    const CrashReport report = capture(tails);
    ASSERT_EQ(report.consoles.size(), 2U);
    ASSERT_EQ(report.consoles[0].lines.size(), 20U);
    EXPECT_EQ(report.consoles[0].lines.front(), "line 80");
    EXPECT_EQ(report.consoles[0].lines.back(), "line 99");
    ASSERT_EQ(report.consoles[1].lines.size(), 1U);
    EXPECT_EQ(report.consoles[1].lines[0], R"(\x1b[31mred\x07\t\\ \xc3\xa4\x00end)");
    const std::string text = to_text(report);
    EXPECT_TRUE(std::ranges::all_of(text, [](char c) { return c == '\n' || (c >= 0x20 && c < 0x7F); })) << text;
    EXPECT_NE(text.find("  line 99\n"), std::string::npos);
    const json crash = json::parse(to_json(report), nullptr, false)["crash"];
    EXPECT_EQ(crash["consoles"]["serial port"].size(), 20U);
    EXPECT_EQ(crash["consoles"]["virtio console"][0], report.consoles[1].lines[0]);
}

TEST_F(CrashReports, AHugeConsoleWithoutNewlinesShowsItsEnd) {
    const std::array tails{
        ConsoleTail{.name = "serial port", .bytes = std::string(kConsoleTail, 'x') + "the end", .whole = false}};
    const CrashReport report = capture(tails);
    ASSERT_EQ(report.consoles.size(), 1U);
    ASSERT_EQ(report.consoles[0].lines.size(), 1U);
    const std::string last = lines_of(to_text(report)).back();
    EXPECT_LE(last.size(), kCrashColumns);
    EXPECT_TRUE(last.starts_with("  ...x")) << last;
    EXPECT_TRUE(last.ends_with("xthe end")) << last;
}

// KVM's words, the kernel's flags and sizes included, are bounded by what is there.
TEST_F(CrashReports, InternalErrorsShowWhatKvmSays) {
    kvm_run run{};
    run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
    run.internal.ndata = 0xFFFF'FFFF;
    run.internal.data[0] = 0xABCD;
    run.internal.data[15] = 0x1234;
    CrashReport::Ending ending = ending_of(run, 3, 0);
    EXPECT_EQ(ending.vcpu, 3U);
    EXPECT_EQ(ending.data.size(), 16U);
    EXPECT_TRUE(ending.instruction.empty());

    run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    run.internal.ndata = 3;
    run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    run.emulation_failure.insn_size = 255;
    EXPECT_EQ(ending_of(run, 0, 0).instruction.size(), 15U);
    run.emulation_failure.insn_size = 2;
    run.emulation_failure.insn_bytes[0] = 0x0F;
    run.emulation_failure.insn_bytes[1] = 0x0B;
    failed_.ending = ending_of(run, 0, 0);
    long_mode();
    const CrashReport report = capture();
    const std::string text = to_text(report);
    EXPECT_NE(text.find("KVM_EXIT_INTERNAL_ERROR (17), KVM_INTERNAL_ERROR_EMULATION (1)"), std::string::npos) << text;
    EXPECT_NE(text.find("KVM could not carry out: 0f 0b  ud2"), std::string::npos) << text;
    const json crash = json::parse(to_json(report), nullptr, false)["crash"];
    EXPECT_EQ(crash["suberror"]["name"], "KVM_INTERNAL_ERROR_EMULATION");
    EXPECT_EQ(crash["suberror"]["number"], 1);
    EXPECT_EQ(crash["data"].size(), 3U);
    EXPECT_EQ(crash["failed_instruction"]["bytes"], "0f0b");
    EXPECT_EQ(crash["failed_instruction"]["text"], "ud2");
    run.emulation_failure.flags = 0;
    EXPECT_TRUE(ending_of(run, 0, 0).instruction.empty());
}

TEST_F(CrashReports, OtherEndsHaveTheirReasons) {
    kvm_run run{};
    run.exit_reason = KVM_EXIT_FAIL_ENTRY;
    run.fail_entry.hardware_entry_failure_reason = 0x8000'0021;
    failed_.ending = ending_of(run, 1, 0);
    EXPECT_NE(to_text(capture()).find("vCPU 1: KVM_EXIT_FAIL_ENTRY (9), hardware reason 0x80000021"),
              std::string::npos);
    EXPECT_EQ(json::parse(to_json(capture()), nullptr, false)["crash"]["hardware_reason"], "0x80000021");
    run.exit_reason = 4711;
    failed_.ending = ending_of(run, 1, 0);
    EXPECT_NE(to_text(capture()).find("vCPU 1: unknown (4711)"), std::string::npos);
}

// What KVM_RUN could not read of guest memory, a file's end or a broken page of RAM, would be a
// signal to us.
TEST_F(CrashReports, MemoryThatKvmCouldNotReadIsNotLookedAt) {
    long_mode();
    kvm_run run{};
    run.exit_reason = KVM_EXIT_MMIO;
    failed_.ending = ending_of(run, 0, EFAULT);
    failed_.regs->rip = kHigh;
    ASSERT_EQ(::mprotect(memory_.blocks().front().host(), kMemory, PROT_NONE), 0);
    const CrashReport report = capture();
    EXPECT_TRUE(report.code.empty());
    EXPECT_NE(to_text(report).find("vCPU 0: KVM_RUN: Bad address (14); 64-bit mode"), std::string::npos)
        << to_text(report);
    const json crash = json::parse(to_json(report), nullptr, false)["crash"];
    EXPECT_EQ(crash["run_errno"], EFAULT);
    EXPECT_FALSE(crash.contains("exit")) << "it is some earlier one";
    EXPECT_EQ(crash["left_out"].size(), 1U);
}

TEST_F(CrashReports, RegistersThatCouldNotBeReadAreLeftOut) {
    failed_.regs.reset();
    failed_.left_out.emplace_back("the general registers: no");
    const std::array tails{ConsoleTail{.name = "serial port", .bytes = "still here\n", .whole = true}};
    const CrashReport report = capture(tails);
    const std::string text = to_text(report);
    EXPECT_NE(text.find("Left out: the general registers: no"), std::string::npos);
    EXPECT_NE(text.find("still here"), std::string::npos);
    EXPECT_EQ(text.find("RAX"), std::string::npos);
    EXPECT_NE(text.find("CR0"), std::string::npos);
    EXPECT_FALSE(json::parse(to_json(report), nullptr, false)["crash"]["registers"].contains("rax"));
}

TEST_F(CrashReports, AVcpuThatKvmHasResetIsSaidToBe) {
    failed_.regs->rip = 0xFFF0;
    failed_.sregs->cs.base = 0xFFFF'0000;
    store(0, std::uint64_t{0x1122'3344'5566'7788});  // where a reset's RSP points
    const CrashReport report = capture();
    EXPECT_TRUE(report.vcpu_was_reset);
    const std::string text = to_text(report);
    EXPECT_NE(text.find("vCPU 0: KVM_EXIT_SHUTDOWN (8); KVM has reset the vCPU, so the registers are not"),
              std::string::npos)
        << text;
    EXPECT_EQ(text.find("real mode"), std::string::npos) << text;
    EXPECT_EQ(text.find("1122334455667788"), std::string::npos) << "not the guest's stack:\n" << text;
    EXPECT_EQ(report.left_out.size(), 1U);
    EXPECT_TRUE(report.backtrace.empty());
    const json crash = json::parse(to_json(report), nullptr, false)["crash"];
    EXPECT_EQ(crash["vcpu_was_reset"], true);
    // The same registers at any other end are the guest's.
    kvm_run run{};
    run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
    failed_.ending = ending_of(run, 0, 0);
    EXPECT_FALSE(capture().vcpu_was_reset);
    EXPECT_EQ(json::parse(to_json(capture()), nullptr, false)["crash"]["vcpu_was_reset"], false);
}

TEST_F(CrashReports, FitsAScreenWithAllThatThereCanBe) {
    long_mode();
    kvm_run run{};
    run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    run.internal.ndata = 16;
    run.emulation_failure.flags = ~0ULL;
    run.emulation_failure.insn_size = 15;
    failed_.ending = ending_of(run, 4095, 0);
    failed_.ending.detail = ~0ULL;
    std::ranges::fill(failed_.ending.data, ~0ULL);
    kvm_regs& regs = *failed_.regs;
    regs.rax = regs.r15 = regs.rflags = ~0ULL;
    failed_.sregs->cr2 = failed_.sregs->cr4 = ~0ULL;
    failed_.left_out = {std::string(300, 'a'), "b"};
    regs.rip = kHigh + 0x1000;
    // Fifteen bytes, with prefixes and a name of its length.
    for (std::uint64_t at = 0xF00; at < 0x1100; at += 15) {
        code(at, {0x67, 0x66, 0x26, 0x64, 0xF2, 0x48, 0x81, 0x84, 0x48, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66});
    }
    regs.rbp = kHigh + 0x2000;
    for (std::uint64_t at = 0x2000; at < 0x3000; at += 16) {
        frame(at, kHigh + at + 16, kHigh + 0x1100);
    }
    std::string many;
    for (int i = 0; i < 50; ++i) {
        many += std::string(200, '\xFF') + "\n";
    }
    const std::array tails{ConsoleTail{.name = "serial port", .bytes = many, .whole = false},
                           ConsoleTail{.name = "virtio console", .bytes = many, .whole = false}};
    for (const bool frames : {true, false}) {
        regs.rsp = kHigh + 0x3000;
        regs.rbp = frames ? regs.rbp : 0;
        const CrashReport report = capture(tails);
        const std::vector<std::string> lines = lines_of(to_text(report));
        EXPECT_LE(lines.size(), kCrashRows) << to_text(report);
        for (const std::string& line : lines) {
            EXPECT_LE(line.size(), kCrashColumns) << line;
        }
        EXPECT_TRUE(json::accept(to_json(report)));
    }
}

}  // namespace
}  // namespace snapvm
