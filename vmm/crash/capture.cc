// SPDX-License-Identifier: Apache-2.0
#include "vmm/crash/capture.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/crash/names.h"
#include "vmm/emulate/address_space.h"
#include "vmm/emulate/decoder.h"
#include "vmm/kvm/x86.h"

namespace snapvm {
namespace {

using crash::hex;
using emulate::AddressSpace;
using emulate::CodeSize;
using namespace x86;

constexpr std::size_t kLinesBefore = 3;
constexpr std::size_t kLinesFromRip = 4;
constexpr std::size_t kMostFrames = 16;
constexpr std::size_t kStackWords = 16;
constexpr std::size_t kConsoleLines = 20;

constexpr std::uint64_t kLow32 = 0xFFFF'FFFF;

// How the processor interprets RIP, RSP and RBP.
struct Mode {
    CodeSize code = CodeSize::bits64;
    std::string text;
    std::uint64_t code_base = 0;
    std::uint64_t stack_base = 0;
    std::uint64_t stack_mask = ~0ULL;  // for RSP and RBP
    std::uint64_t linear_mask = ~0ULL;

    [[nodiscard]] unsigned word_size() const { return code == CodeSize::bits64 ? 8 : code == CodeSize::bits32 ? 4 : 2; }
    [[nodiscard]] std::uint64_t code_at(std::uint64_t rip) const { return (code_base + rip) & linear_mask; }
    [[nodiscard]] std::uint64_t stack_at(std::uint64_t rsp) const {
        return (stack_base + (rsp & stack_mask)) & linear_mask;
    }
};

std::string paging_text(const kvm_sregs& sregs) {
    if ((sregs.cr0 & kCr0Paging) == 0) {
        return "no paging";
    }
    if ((sregs.efer & kEferLongModeActive) != 0) {
        return (sregs.cr4 & kCr4FiveLevels) != 0 ? "5-level paging" : "4-level paging";
    }
    return (sregs.cr4 & kCr4Pae) != 0 ? "PAE paging" : "32-bit paging";
}

Mode mode_of(const kvm_regs& regs, const kvm_sregs& sregs) {
    Mode mode;
    const bool long_mode = (sregs.efer & kEferLongModeActive) != 0;
    const bool is_protected = (sregs.cr0 & kCr0ProtectedMode) != 0;
    const bool virtual_8086 = is_protected && !long_mode && (regs.rflags & kFlagVirtual8086) != 0;
    if (!is_protected || virtual_8086) {
        mode.text = virtual_8086 ? "virtual-8086 mode" : "real mode";
        mode.code = CodeSize::bits16;
    } else if (long_mode && sregs.cs.l != 0) {
        mode.text = "64-bit mode";
    } else {
        mode.code = sregs.cs.db != 0 ? CodeSize::bits32 : CodeSize::bits16;
        mode.text = std::string(mode.code == CodeSize::bits32 ? "32-bit " : "16-bit ") +
                    (long_mode ? "compatibility" : "protected") + " mode";
    }
    if (mode.code != CodeSize::bits64) {
        mode.code_base = sregs.cs.base;
        mode.stack_base = sregs.ss.base;
        mode.stack_mask = sregs.ss.db != 0 ? kLow32 : 0xFFFF;
        mode.linear_mask = kLow32;
    }
    // KVM keeps the CPL here, whatever the selectors say.
    mode.text += ", CPL " + std::to_string(sregs.ss.dpl & 3) + ", " + paging_text(sregs);
    return mode;
}

std::vector<CrashReport::Instruction> listing(CodeSize size, std::span<const std::byte> bytes, std::uint64_t address,
                                              std::size_t max_instructions) {
    std::vector<CrashReport::Instruction> lines;
    auto decoded = emulate::disassemble(size, bytes, address, max_instructions);
    for (auto& line : decoded ? *decoded : std::vector<emulate::DisassembledLine>()) {
        lines.push_back({line.address, std::move(line.bytes), std::move(line.text)});
    }
    return lines;
}

// Lists the instructions before an address. x86 code cannot be decoded backwards, so of all starts
// from which instructions end exactly at the end of `bytes`, the farthest is taken: a decoder that
// starts inside an instruction gets in step after a few.
std::vector<CrashReport::Instruction> listing_before(CodeSize size, std::span<const std::byte> bytes,
                                                     std::uint64_t address) {
    for (; !bytes.empty(); bytes = bytes.subspan(1), ++address) {
        std::vector<CrashReport::Instruction> lines = listing(size, bytes, address, bytes.size());
        const bool sound = std::ranges::none_of(lines, [](const auto& line) { return line.text == "(bad)"; });
        if (sound && !lines.empty()) {
            lines.erase(lines.begin(), lines.end() - static_cast<std::ptrdiff_t>(std::min(lines.size(), kLinesBefore)));
            return lines;
        }
    }
    return {};
}

void show_code(CrashReport& report, const Mode& mode, const AddressSpace& space) {
    report.code_address = mode.code_at(report.regs->rip);
    std::array<std::byte, kLinesFromRip * emulate::kMaxInstruction> after{};
    const std::size_t readable = space.peek(report.code_address, after);
    if (readable == 0) {
        report.left_out.push_back("the code at RIP: there is no memory at linear address 0x" +
                                  hex(report.code_address));
        return;
    }
    // The bytes before RIP may be on a page that is not mapped.
    std::array<std::byte, kLinesBefore * emulate::kMaxInstruction> buffer{};
    std::span<std::byte> before(buffer);
    for (const std::size_t size :
         {buffer.size(), std::min<std::size_t>(buffer.size(), report.code_address % kPageSize)}) {
        before = std::span(buffer).first(std::min<std::uint64_t>(size, report.code_address));
        if (space.peek(report.code_address - before.size(), before) == before.size()) {
            break;
        }
    }
    report.code = listing_before(mode.code, before, report.code_address - before.size());
    auto lines = listing(mode.code, std::span(after).first(readable), report.code_address, kLinesFromRip);
    std::ranges::move(lines, std::back_inserter(report.code));
}

// Returns a word of the stack, or nothing if there is no memory.
std::optional<std::uint64_t> word_at(const AddressSpace& space, std::uint64_t linear, unsigned size) {
    std::uint64_t word = 0;
    const auto bytes = std::as_writable_bytes(std::span(&word, 1)).first(size);
    return space.peek(linear, bytes) == size ? std::optional(word) : std::nullopt;
}

// Follows saved frame pointers. They are untrusted: each frame must be higher than the one before,
// and kMostFrames limits their number.
void follow_frames(CrashReport& report, const Mode& mode, const AddressSpace& space) {
    report.backtrace = {{report.regs->rip, report.regs->rbp}};
    const unsigned size = mode.word_size();
    while (true) {
        const std::uint64_t rbp = report.backtrace.back().rbp;
        if (rbp == 0) {
            report.backtrace_end = "to the end, where RBP is 0";
            return;
        }
        const auto saved_rbp = word_at(space, mode.stack_at(rbp), size);
        const auto rip = word_at(space, mode.stack_at(rbp + size), size);
        if (!saved_rbp || !rip) {
            report.backtrace_end = "ends where RBP is " + hex(rbp) + ": no memory there";
            return;
        }
        if (*rip == 0) {
            report.backtrace_end = "to the end, where the frame at " + hex(rbp) + " returns to 0";
            return;
        }
        if (std::byte first{}; space.peek(mode.code_at(*rip), std::span(&first, 1)) == 0) {
            report.backtrace_end = "ends where it returns to " + hex(*rip) + ": no memory there";
            return;
        }
        if (report.backtrace.size() == kMostFrames) {
            report.backtrace_end = "and further";
            return;
        }
        report.backtrace.push_back({*rip, *saved_rbp});
        if (*saved_rbp != 0 && (*saved_rbp & mode.stack_mask) <= (rbp & mode.stack_mask)) {
            report.backtrace_end = "ends where RBP is " + hex(*saved_rbp) + ": the next frame must lie higher";
            return;
        }
    }
}

void show_stack(CrashReport& report, const Mode& mode, const AddressSpace& space) {
    report.word_size = mode.word_size();
    report.stack_address = mode.stack_at(report.regs->rsp);
    while (report.stack.size() < kStackWords) {
        const auto word =
            word_at(space, report.stack_address + report.stack.size() * report.word_size, report.word_size);
        if (!word) {
            break;
        }
        report.stack.push_back(*word);
    }
    if (report.stack.empty()) {
        report.left_out.push_back("the stack: there is no memory at linear address 0x" + hex(report.stack_address));
    }
}

void look_into_memory(CrashReport& report, const Mode& mode, GuestMemory& memory) {
    if (report.ending.run_error == EFAULT || report.ending.run_error == EHWPOISON) {
        report.left_out.emplace_back("code and stack: this host could not read the guest's memory, or some of it");
        return;
    }
    const AddressSpace space(memory, emulate::PagingMode::of(*report.sregs));
    show_code(report, mode, space);
    follow_frames(report, mode, space);
    if (report.backtrace.size() == 1) {
        show_stack(report, mode, space);
    }
}

std::string escaped(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) {
        const auto value = static_cast<std::uint8_t>(c);
        if (c == '\t') {
            text += "\\t";
        } else if (c == '\\') {
            text += "\\\\";
        } else if (value >= 0x20 && value < 0x7F) {
            text += c;
        } else {
            text += "\\x" + hex(value, 2);
        }
    }
    return text;
}

std::vector<std::string> last_lines(const ConsoleTail& tail) {
    std::vector<std::string> lines;
    std::string_view rest = tail.bytes;
    if (rest.ends_with('\n')) {
        rest.remove_suffix(1);
    }
    while (!tail.bytes.empty() && lines.size() < kConsoleLines) {
        const std::size_t end = rest.rfind('\n');
        const bool first = end == std::string_view::npos;
        std::string_view line = rest.substr(first ? 0 : end + 1);
        while (line.ends_with('\r')) {
            line.remove_suffix(1);
        }
        lines.push_back((first && !tail.whole ? "..." : "") + escaped(line));
        if (first) {
            break;
        }
        rest = rest.substr(0, end);
    }
    std::ranges::reverse(lines);
    return lines;
}

// AMD-V's KVM resets a vCPU that shuts down. CS and RIP of a reset: Intel SDM volume 3, table 9-1.
bool was_reset(const CrashReport& report) {
    return report.ending.run_error == 0 && report.ending.exit == KVM_EXIT_SHUTDOWN && report.regs->rip == 0xFFF0 &&
           report.sregs->cs.base == 0xFFFF'0000;
}

}  // namespace

CrashReport::Ending ending_of(const kvm_run& run, std::uint32_t vcpu, int run_error) {
    CrashReport::Ending ending{
        .vcpu = vcpu, .run_error = run_error, .exit = 0, .detail = {}, .data = {}, .instruction = {}};
    if (run_error != 0) {
        return ending;  // kvm_run still describes an earlier exit
    }
    ending.exit = run.exit_reason;
    switch (run.exit_reason) {
        case KVM_EXIT_UNKNOWN: ending.detail = run.hw.hardware_exit_reason; break;
        case KVM_EXIT_FAIL_ENTRY: ending.detail = run.fail_entry.hardware_entry_failure_reason; break;
        case KVM_EXIT_INTERNAL_ERROR: {
            ending.detail = run.internal.suberror;
            const std::size_t count = std::min<std::size_t>(run.internal.ndata, std::size(run.internal.data));
            ending.data.assign(run.internal.data, run.internal.data + count);
            // Flags first, then size and bytes in the next two words.
            const auto& failure = run.emulation_failure;
            if (run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION && count >= 3 &&
                (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
                const std::size_t size = std::min<std::size_t>(failure.insn_size, std::size(failure.insn_bytes));
                const auto bytes = std::as_bytes(std::span(failure.insn_bytes)).first(size);
                ending.instruction.assign(bytes.begin(), bytes.end());
            }
            break;
        }
        default: break;
    }
    return ending;
}

FailedVcpu read_failed_vcpu(const kvm::VcpuFd& vcpu, int run_error) {
    FailedVcpu failed{
        .ending = ending_of(vcpu.shared(), vcpu.index(), run_error), .regs = {}, .sregs = {}, .left_out = {}};
    if (auto regs = vcpu.get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS")) {
        failed.regs = *regs;
    } else {
        failed.left_out.push_back("the general registers: " + regs.error().message());
    }
    if (auto sregs = vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS")) {
        failed.sregs = *sregs;
    } else {
        failed.left_out.push_back("the segments and control registers: " + sregs.error().message());
    }
    return failed;
}

CrashReport capture_crash(std::string reason, FailedVcpu failed, GuestMemory& memory,
                          std::span<const ConsoleTail> consoles) {
    CrashReport report;
    report.reason = std::move(reason);
    report.ending = std::move(failed.ending);
    report.regs = failed.regs;
    report.sregs = failed.sregs;
    report.left_out = std::move(failed.left_out);
    if (report.regs && report.sregs) {
        const Mode mode = mode_of(*report.regs, *report.sregs);
        report.mode = mode.text;
        report.vcpu_was_reset = was_reset(report);
        if (report.vcpu_was_reset) {
            report.left_out.emplace_back(
                "the state it failed in, code and stack: KVM has reset the vCPU, as AMD-V's does at a shutdown");
        } else {
            look_into_memory(report, mode, memory);
        }
        if (const auto lines = listing(mode.code, report.ending.instruction, report.code_address, 1); !lines.empty()) {
            report.failed_instruction = lines.front().text;
        }
    }
    for (const ConsoleTail& tail : consoles) {
        if (std::vector<std::string> lines = last_lines(tail); !lines.empty()) {
            report.consoles.push_back({tail.name, std::move(lines)});
        }
    }
    return report;
}

}  // namespace snapvm
