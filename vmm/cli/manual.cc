// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/manual.h"

#include <string_view>

namespace snapvm::cli {
namespace {

// Returns text in which roff sees no request and no hyphenation.
std::string roff(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == '\\') {
            out += "\\e";
        } else if (c == '-') {
            out += "\\-";
        } else {
            out += c;
        }
    }
    return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

std::string last_word(const std::string& name) { return name.substr(name.rfind(' ') + 1); }

std::string option_lines(const OptionInfo& option) {
    std::string line = ".TP\n\\fB" + roff(option.names) + "\\fR";
    if (!option.value.empty() && !option.argument) {
        line += " \\fI" + roff(option.value) + "\\fR";
    }
    return line + "\n" + roff(option.help) + "\n";
}

std::string command_lines(const CommandInfo& command) {
    std::string page =
        ".SS " + roff(command.name.substr(command.name.find(' ') + 1)) + "\n" + roff(command.help) + ".\n";
    for (const OptionInfo& option : command.options) {
        page += option.names.ends_with("--help") ? "" : option_lines(option);
    }
    if (const std::size_t line = command.example.find("snapvm "); line != std::string::npos) {
        page += ".PP\nExample: \\fB" + roff(command.example.substr(line)) + "\\fR\n";
    }
    for (const CommandInfo& inner : command.commands) {
        page += command_lines(inner);
    }
    return page;
}

std::string words_of(const CommandInfo& command) {
    std::string words;
    for (const OptionInfo& option : command.options) {
        const std::size_t dashes = option.names.rfind("--");
        words += dashes == std::string::npos ? "" : " " + option.names.substr(dashes);
    }
    for (const CommandInfo& inner : command.commands) {
        words += " " + last_word(inner.name);
    }
    return words.empty() ? words : words.substr(1);
}

}  // namespace

std::string man_page(const CommandInfo& program, const std::string& version) {
    std::string page = ".TH SNAPVM 1 \"\" \"snapvm " + roff(version) + "\" \"User Commands\"\n.SH NAME\nsnapvm \\- " +
                       roff(program.help) + "\n.SH SYNOPSIS\n.B snapvm\n[\\fIOPTION\\fR]... \\fICOMMAND\\fR " +
                       "[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n.SH OPTIONS\n";
    for (const OptionInfo& option : program.options) {
        page += option_lines(option);
    }
    std::string section;
    for (const CommandInfo& command : program.commands) {
        if (command.section != section) {
            section = command.section;
            page += ".SH \"" + roff(section) + "\"\n";
        }
        page += command_lines(command);
    }
    return page +
           ".SH \"EXIT STATUS\"\n0: done. 1: something failed; one line on stderr says what. 2: the command line is "
           "wrong. A run exits with the guest's code, 3 after a panic, 4 after a triple fault, and 124 after a "
           "timeout.\n";
}

std::string bash_completion(const CommandInfo& program) {
    std::string script =
        "# bash completion for snapvm; made by snapvm help --bash-completion\n"
        "_snapvm() {\n"
        "    local word=${COMP_WORDS[COMP_CWORD]} words\n"
        "    case ${COMP_WORDS[1]} in\n";
    for (const CommandInfo& command : program.commands) {
        script += "        " + last_word(command.name) + ") words='" + words_of(command) + "' ;;\n";
    }
    script += "        *) words='" + words_of(program) +
              "' ;;\n"
              "    esac\n"
              "    [ \"$COMP_CWORD\" -gt 1 ] || words='" +
              words_of(program) +
              " help version'\n"
              "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
              "}\n"
              "complete -o default -F _snapvm snapvm\n";
    return script;
}

}  // namespace snapvm::cli
