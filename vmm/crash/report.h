// SPDX-License-Identifier: Apache-2.0
// What is left to look at when a vCPU cannot go on: one screen for people, one line of JSON for programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vmm/kvm/abi.h"

namespace snapvm {

/// Plain data. What could not be read is not there, and `left_out` says so.
struct CrashReport {
    /// Why KVM_RUN was the last one.
    struct Ending {
        std::uint32_t vcpu = 0;
        int run_error = 0;  ///< errno of KVM_RUN; 0: it returned, with `exit`
        std::uint32_t exit = 0;  ///< KVM_EXIT_…
        std::optional<std::uint64_t>
            detail;  ///< an internal error's suberror, or the hardware's reason of a failed entry or unknown exit
        std::vector<std::uint64_t> data;  ///< what KVM says besides, of an internal error
        std::vector<std::byte> instruction;  ///< that KVM could not emulate
    };
    struct Instruction {
        std::uint64_t address = 0;  ///< linear
        std::vector<std::byte> bytes;
        std::string text;
    };
    struct Frame {
        std::uint64_t rip = 0;
        std::uint64_t rbp = 0;
    };
    struct ConsoleLines {
        std::string name;
        std::vector<std::string> lines;  ///< printable ASCII; all else is escaped as in C
    };

    std::string reason;  ///< one line: what failed, why, what to do
    Ending ending;
    std::optional<kvm_regs> regs;
    std::optional<kvm_sregs> sregs;
    std::string mode;  ///< of the processor; empty where the registers could not be read
    /// KVM reset the vCPU before it could be asked: registers and mode are those of a reset. Code and stack are not looked for.
    bool vcpu_was_reset = false;

    std::string failed_instruction;  ///< `ending.instruction` in Intel's syntax
    std::uint64_t code_address = 0;  ///< RIP's linear address
    std::vector<Instruction> code;  ///< around it

    std::vector<Frame> backtrace;  ///< by frame pointer; the first is RIP itself
    std::string backtrace_end;  ///< why there are no more
    std::uint64_t stack_address = 0;  ///< linear
    unsigned word_size = 8;
    std::vector<std::uint64_t> stack;  ///< its first words, where RBP leads nowhere

    std::vector<ConsoleLines> consoles;  ///< the last lines of those that said something
    std::vector<std::string> left_out;
};

/// What to_text keeps to. The first line, the reason, is as long as it is.
inline constexpr std::size_t kCrashRows = 45;
inline constexpr std::size_t kCrashColumns = 120;

/// The reason in the first line, all lines with their newline.
[[nodiscard]] std::string to_text(const CrashReport& report);
/// {"crash": {…}}, one line without its newline. Registers and addresses are strings ("0x…"): JSON readers lose bits of large numbers.
[[nodiscard]] std::string to_json(const CrashReport& report);

}  // namespace snapvm
