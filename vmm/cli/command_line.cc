// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <utility>

namespace snapvm::cli {

Command Command::subcommand(const char* name, const char* help) {
    return {*app_->add_subcommand(name, help), *chosen_};
}

Command Command::group(const char* name, const char* help) {
    Command command = subcommand(name, help);
    command.app_->require_subcommand(1);
    return command;
}

void Command::required(const char* name, std::string& value, const char* help) {
    app_->add_option(name, value, help)->required();
}

void Command::arguments(const char* name, std::vector<std::string>& values, const char* help) {
    app_->add_option(name, values, help)->required();
}

void Command::option(const char* name, std::string& value, const char* help) { app_->add_option(name, value, help); }

void Command::option(const char* name, std::string& value, std::vector<std::string> words, const char* help) {
    app_->add_option(name, value, help)->check(CLI::IsMember(std::move(words)));
}

void Command::option(const char* name, std::uint32_t& value, const char* help) { app_->add_option(name, value, help); }

void Command::option(const char* name, std::uint32_t& value, int least, int most, const char* help) {
    app_->add_option(name, value, help)->check(CLI::Range(least, most));
}

void Command::option(const char* name, const std::function<void(const std::string&)>& take, const char* help) {
    app_->add_option_function(name, take, help);
}

void Command::list(const char* name, std::vector<std::string>& values, const char* help) {
    app_->add_option(name, values, help)->expected(1)->take_all();
}

void Command::flag(const char* name, bool& value, const char* help) { app_->add_flag(name, value, help); }

void Command::flag(const char* name, std::string& value, const char* help) { app_->add_flag(name, value, help); }

void Command::action(Action action) {
    app_->callback([chosen = chosen_, action = std::move(action)] { *chosen = action; });
}

std::size_t Command::options() const { return app_->get_options().size(); }

std::string Command::first_given(std::size_t count) const {
    const std::vector<CLI::Option*> options = app_->get_options();
    for (std::size_t i = 0; i < count; ++i) {
        if (!options[i]->empty()) {
            return options[i]->get_name();
        }
    }
    return {};
}

bool Command::given(const char* name) const { return app_->count(name) > 0; }

CommandLine::CommandLine(const char* program, const char* what, const char* version)
    : app_(std::make_unique<CLI::App>(what, program)) {
    app_->set_version_flag("--version", version);
    app_->require_subcommand(1);
    app_->fallthrough();
}

CommandLine::~CommandLine() = default;

Result<Action> CommandLine::parse(int argc, const char* const* argv) {
    try {
        app_->parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() != 0) {
            return fail(ErrorKind::usage, error.what());
        }
        app_->exit(error);  // prints what --help or --version asks for
        return Action([]() -> Result<int> { return 0; });
    }
    return chosen_;
}

}  // namespace snapvm::cli
