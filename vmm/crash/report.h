// SPDX-License-Identifier: Apache-2.0
// What remains of a vCPU that cannot go on: one screen for people, one line of JSON for programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vmm/kvm/abi.h"

namespace snapvm {

/// Plain data. What could not be read is empty, and `left_out` says why.
struct CrashReport {
    /// How the last KVM_RUN ended.
    struct Ending {
        std::uint32_t vcpu = 0;
        int run_error = 0;  ///< errno of KVM_RUN; 0: it returned, with `exit`
        std::uint32_t exit = 0;  ///< KVM_EXIT_…
        std::optional<std::uint64_t>
            detail;  ///< an internal error's suberror, or the hardware's reason of a failed entry or unknown exit
        std::vector<std::uint64_t> data;  ///< more data that KVM gives with an internal error
        std::vector<std::byte> instruction;  ///< the instruction that KVM could not emulate
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

    std::string reason;  ///< one line: what failed, why, and advice
    Ending ending;
    std::optional<kvm_regs> regs;
    std::optional<kvm_sregs> sregs;
    std::string mode;  ///< the processor's; empty if the registers could not be read
    /// KVM reset the vCPU before its state could be read. Registers and mode are then those of a
    /// reset, and code and stack are left out.
    bool vcpu_was_reset = false;

    std::string failed_instruction;  ///< `ending.instruction` in Intel's syntax
    std::uint64_t code_address = 0;  ///< linear address of RIP
    std::vector<Instruction> code;  ///< instructions around RIP

    std::vector<Frame> backtrace;  ///< follows the frame pointer; the first entry is RIP itself
    std::string backtrace_end;  ///< why it ends there
    std::uint64_t stack_address = 0;  ///< linear address
    unsigned word_size = 8;
    std::vector<std::uint64_t> stack;  ///< its first words, if RBP leads to no frame

    std::vector<ConsoleLines> consoles;  ///< the last lines of consoles with output
    std::vector<std::string> left_out;
};

/// The screen that to_text fits into. The first line, the reason, may be longer.
inline constexpr std::size_t kCrashRows = 45;
inline constexpr std::size_t kCrashColumns = 120;

/// Returns the report as text: the reason in the first line; each line ends with a newline.
[[nodiscard]] std::string to_text(const CrashReport& report);
/// Returns {"crash": {…}} in one line without a newline. Registers and addresses are strings
/// ("0x…"), since many JSON readers lose bits of large numbers.
[[nodiscard]] std::string to_json(const CrashReport& report);

}  // namespace snapvm
