// SPDX-License-Identifier: Apache-2.0
// Declares commands and their options, and parses the command line. Only command_line.cc includes
// CLI11: its headers take seconds of every file that includes them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vmm/base/error.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace snapvm::cli {

/// Carries out a command after its options were parsed. Returns the exit code.
using Action = std::function<Result<int>()>;

/// A command whose options are being declared. Each option has a variable, which has the default
/// before and which CommandLine::parse() writes. The variables must outlive the CommandLine; the
/// command's action usually owns them. A Command is a reference, and is copied as one.
///
/// The name of an option is followed by that of its value for --help: "--mem SIZE".
class Command {
public:
    [[nodiscard]] Command subcommand(const char* name, const char* help);
    /// Declares a command that must be followed by one of its subcommands.
    [[nodiscard]] Command group(const char* name, const char* help);

    /// Gives the command a second name.
    void alias(const char* name);
    /// Shows a use of the command below its --help.
    void example(const std::string& words);
    /// Puts the options and commands that this object declares from now on under a heading of
    /// --help.
    void section(const char* title);

    /// Declares an option that must be given. A name without dashes is that of an argument.
    void required(const char* name, std::string& value, const char* help);
    /// Declares an argument that is given once or more.
    void arguments(const char* name, std::vector<std::string>& values, const char* help);
    /// Declares an argument that may be given any number of times.
    void optional_arguments(const char* name, std::vector<std::string>& values, const char* help);
    void option(const char* name, std::string& value, const char* help);
    /// Declares an option whose value is one of `words`.
    void option(const char* name, std::string& value, std::vector<std::string> words, const char* help);
    void option(const char* name, std::uint32_t& value, const char* help);
    /// Declares an option whose value is `least` to `most`.
    void option(const char* name, std::uint32_t& value, int least, int most, const char* help);
    /// Declares an option that calls `take` with its value.
    void option(const char* name, const std::function<void(const std::string&)>& take, const char* help);
    /// Declares an option that may be given several times.
    void list(const char* name, std::vector<std::string>& values, const char* help);
    void flag(const char* name, bool& value, const char* help);
    /// Declares a flag that may have a value behind a `=`. Without one it is "true".
    void flag(const char* name, std::string& value, const char* help);

    /// Sets what CommandLine::parse() returns if this command is used.
    void action(Action action);

    /// Returns how many options and arguments are declared, `--help` included.
    [[nodiscard]] std::size_t options() const;
    /// Looks at the first `count` of them, in the order of declaration, and returns the name of the
    /// first that was given, or "". An action may call it, as given().
    [[nodiscard]] std::string first_given(std::size_t count) const;
    [[nodiscard]] bool given(const char* name) const;

private:
    friend class CommandLine;
    Command(CLI::App& app, Action& chosen) : app_(&app), chosen_(&chosen) {}
    CLI::Option* shown(CLI::Option* option, const char* name) const;
    CLI::App* app_;
    Action* chosen_;
    std::string section_;  ///< empty: CLI11's own heading
};

/// What --help shows of an option or an argument.
struct OptionInfo {
    std::string names;    ///< "-d,--detach", or an argument's "NAME"
    std::string value;    ///< the name of its value; empty for a flag
    std::string help;
    bool argument = false;
};
/// What --help shows of a command.
struct CommandInfo {
    std::string name;  ///< with those of the commands above it: "snapvm area create"
    std::string help;
    std::string section;
    std::string example;
    std::vector<OptionInfo> options;
    std::vector<CommandInfo> commands;
};

class CommandLine {
public:
    CommandLine(const char* program, const char* what, const char* version);
    CommandLine(const CommandLine&) = delete;
    CommandLine& operator=(const CommandLine&) = delete;
    ~CommandLine();

    /// Returns the program itself. Its options may stand before and behind a command's.
    [[nodiscard]] Command program() { return {*app_, chosen_}; }
    /// Returns the action of the command that is used. For --help and --version it prints them and
    /// returns an action that does nothing. Fails with usage, and names the nearest option or
    /// command if a word is none.
    Result<Action> parse(int argc, const char* const* argv);
    /// Returns all that is declared.
    [[nodiscard]] CommandInfo describe() const;

private:
    std::unique_ptr<CLI::App> app_;
    Action chosen_;
};

}  // namespace snapvm::cli
