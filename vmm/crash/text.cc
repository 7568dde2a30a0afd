// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string_view>
#include <system_error>

#include "vmm/crash/names.h"
#include "vmm/crash/report.h"

namespace snapvm {
namespace {

using crash::hex;

// Collects lines of a screen's width.
class Screen {
public:
    void line(std::string text) {
        if (text.size() > kCrashColumns) {
            text.resize(kCrashColumns - 3);
            text += "...";
        }
        text_ += text + "\n";
        ++rows_;
    }
    // Prints `columns` cells in each line.
    void table(const std::vector<std::string>& cells, std::size_t columns) {
        std::string row;
        for (std::size_t i = 0; i < cells.size(); ++i) {
            row += "  " + cells[i];
            if ((i + 1) % columns == 0 || i + 1 == cells.size()) {
                line(std::move(row));
                row.clear();
            }
        }
    }
    [[nodiscard]] std::size_t rows() const { return rows_; }
    [[nodiscard]] std::string take() { return std::move(text_); }

private:
    std::string text_;
    std::size_t rows_ = 0;
};

std::string padded(std::string text, std::size_t width) {
    text.resize(std::max(width, text.size()), ' ');
    return text;
}

std::string headline(const CrashReport& report) {
    const CrashReport::Ending& ending = report.ending;
    std::string text = "vCPU " + std::to_string(ending.vcpu) + ": ";
    if (ending.run_error != 0) {
        text += "KVM_RUN: " + std::generic_category().message(ending.run_error) + " (" +
                std::to_string(ending.run_error) + ")";
    } else {
        text += std::string(crash::exit_name(ending.exit)) + " (" + std::to_string(ending.exit) + ")";
    }
    if (ending.detail && ending.exit == KVM_EXIT_INTERNAL_ERROR) {
        text += ", " + std::string(crash::suberror_name(*ending.detail)) + " (" + std::to_string(*ending.detail) + ")";
    } else if (ending.detail) {
        text += ", hardware reason 0x" + hex(*ending.detail);
    }
    if (report.vcpu_was_reset) {
        return text + "; KVM has reset the vCPU, so the registers are not those it failed with";
    }
    return report.mode.empty() ? text : text + "; " + report.mode;
}

void show_ending(Screen& screen, const CrashReport& report) {
    screen.line(headline(report));
    std::vector<std::string> words;
    words.reserve(report.ending.data.size());
    for (const std::uint64_t word : report.ending.data) {
        words.push_back((words.empty() ? "data " : "") + hex(word, 16));
    }
    screen.table(words, 6);
    if (!report.ending.instruction.empty()) {
        screen.line("  KVM could not carry out: " + crash::hex_bytes(report.ending.instruction) + "  " +
                    report.failed_instruction);
    }
}

std::string flags_text(std::uint64_t rflags) {
    constexpr std::pair<unsigned, const char*> kFlags[] = {{0, "CF"},  {2, "PF"},  {4, "AF"},  {6, "ZF"},  {7, "SF"},
                                                           {8, "TF"},  {9, "IF"},  {10, "DF"}, {11, "OF"}, {14, "NT"},
                                                           {16, "RF"}, {17, "VM"}, {18, "AC"}};
    std::string text;
    for (const auto& [bit, name] : kFlags) {
        if ((rflags >> bit & 1) != 0) {
            text += std::string(text.empty() ? "" : " ") + name;
        }
    }
    return " [" + text + "]";
}

void show_registers(Screen& screen, const CrashReport& report) {
    if (report.regs) {
        std::vector<std::string> cells;
        for (const auto& [name, value] : crash::general_registers(*report.regs)) {
            cells.push_back(padded(name, 3) + " " + hex(value, 16));
        }
        cells.back() += flags_text(report.regs->rflags);
        screen.table(cells, 4);
    }
    if (!report.sregs) {
        return;
    }
    std::vector<std::string> cells;
    for (const auto& [name, segment] : crash::segments(*report.sregs)) {
        cells.push_back(padded(name, 3) + " " + hex(segment.selector, 4) + " base " + hex(segment.base, 16) +
                        " limit " + hex(segment.limit, 8) +
                        (segment.unusable != 0 ? " unusable " : " attr " + hex(crash::attributes(segment), 4)));
    }
    for (const auto& [name, table] : crash::tables(*report.sregs)) {
        cells.push_back(std::string(name) + "      base " + hex(table.base, 16) + " limit " + hex(table.limit, 8));
    }
    screen.table(cells, 2);
    cells.clear();
    for (const auto& [name, value] : crash::control_registers(*report.sregs)) {
        cells.push_back(std::string(name) + " " + (value >> 32 == 0 ? hex(value, 8) : hex(value, 16)));
    }
    screen.table(cells, cells.size());
}

void show_code(Screen& screen, const CrashReport& report) {
    if (report.code.empty()) {
        return;
    }
    screen.line("Code (linear addresses):");
    constexpr std::size_t kBytesWidth = 32;  // fits most instructions; longer ones move their text to the right
    for (const CrashReport::Instruction& line : report.code) {
        screen.line(std::string(line.address == report.code_address ? "  > " : "    ") + hex(line.address, 16) + "  " +
                    padded(crash::hex_bytes(line.bytes), kBytesWidth) + "  " + line.text);
    }
}

void show_stack(Screen& screen, const CrashReport& report) {
    std::vector<std::string> cells;
    cells.reserve(report.backtrace.size());
    for (const CrashReport::Frame& frame : report.backtrace) {
        cells.push_back(padded("#" + std::to_string(cells.size()), 3) + " " + hex(frame.rip, 16));
    }
    if (!cells.empty()) {
        screen.line("Backtrace (" + report.backtrace_end + "):");
        screen.table(cells, 4);
    }
    cells.clear();
    for (const std::uint64_t word : report.stack) {
        cells.push_back(hex(word, static_cast<int>(report.word_size) * 2));
    }
    if (!cells.empty()) {
        screen.line("Stack from " + hex(report.stack_address) + " on:");
        screen.table(cells, 4);
    }
}

void show_consoles(Screen& screen, const CrashReport& report) {
    constexpr std::size_t kLeast = 3;
    const std::size_t used = 1 + screen.rows() + report.consoles.size();
    std::size_t room = std::max(kLeast, kCrashRows - std::min(kCrashRows, used));
    std::size_t consoles = report.consoles.size();
    for (const CrashReport::ConsoleLines& console : report.consoles) {
        const std::size_t shown = std::min(console.lines.size(), room / consoles--);
        room -= shown;
        screen.line("Last lines of the " + console.name + ":");
        for (std::size_t i = console.lines.size() - shown; i < console.lines.size(); ++i) {
            const std::string& line = console.lines[i];
            // Of a long line the end is shown, which is the newest.
            constexpr std::size_t kFits = kCrashColumns - 2;
            screen.line("  " + (line.size() <= kFits ? line : "..." + line.substr(line.size() - (kFits - 3))));
        }
    }
}

}  // namespace

std::string to_text(const CrashReport& report) {
    Screen screen;
    show_ending(screen, report);
    show_registers(screen, report);
    show_code(screen, report);
    show_stack(screen, report);
    for (const std::string& what : report.left_out) {
        screen.line("Left out: " + what);
    }
    show_consoles(screen, report);
    return report.reason + "\n" + screen.take();
}

}  // namespace snapvm
