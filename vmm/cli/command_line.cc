// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "vmm/cli/nearest.h"

namespace snapvm::cli {
namespace {

// Returns the command that is used, as deep as the words name one.
const CLI::App& used_command(const CLI::App& program) {
    const CLI::App* used = &program;
    while (!used->get_subcommands().empty()) {
        used = used->get_subcommands().front();
    }
    return *used;
}

// Returns "snapvm area create", with the program first.
std::string full_name(const CLI::App& command) {
    const CLI::App* const parent = command.get_parent();
    return parent == nullptr ? command.get_name() : full_name(*parent) + " " + command.get_name();
}

// Returns the options that a command takes, with those of the commands above it.
std::vector<std::string> options_of(const CLI::App& command) {
    std::vector<std::string> names;
    for (const CLI::App* app = &command; app != nullptr; app = app->get_parent()) {
        for (const CLI::Option* option : app->get_options()) {
            for (const std::string& name : option->get_lnames()) {
                names.push_back("--" + name);
            }
        }
    }
    return names;
}

std::vector<std::string> subcommands_of(const CLI::App& command) {
    std::vector<std::string> names;
    for (const CLI::App* one : command.get_subcommands([](const CLI::App*) { return true; })) {
        names.push_back(one->get_name());
    }
    return names;
}

// The two parts of "--mem SIZE".
std::string option_name_in(std::string_view name) { return std::string(name.substr(0, name.find(' '))); }
std::string_view value_name_in(std::string_view name) {
    const std::size_t space = name.find(' ');
    return space == std::string_view::npos ? std::string_view() : name.substr(space + 1);
}

CommandInfo info_of(const CLI::App& command) {
    CommandInfo info{.name = full_name(command),
                     .help = command.get_description(),
                     .section = command.get_group(),
                     .example = command.get_footer(),
                     .options = {},
                     .commands = {}};
    for (const CLI::Option* option : command.get_options()) {
        const bool has_value = option->get_items_expected_max() > 0;
        info.options.push_back({.names = option->get_name(false, true),
                                .value = has_value ? option->get_type_name() : "",
                                .help = option->get_description(),
                                .argument = option->get_positional()});
    }
    for (const CLI::App* one : command.get_subcommands([](const CLI::App*) { return true; })) {
        info.commands.push_back(info_of(*one));
    }
    return info;
}

std::string did_you_mean(const std::string& word) { return word.empty() ? "" : ": did you mean " + word + "?"; }

std::string what_is_wrong_with(const std::string& word, const CLI::App& command) {
    if (word.starts_with('-')) {
        const std::string name = word.substr(0, word.find('='));
        return full_name(command) + " has no option " + name + did_you_mean(nearest(name, options_of(command)));
    }
    const std::vector<std::string> subcommands = subcommands_of(command);
    return subcommands.empty()
               ? full_name(command) + " takes no argument \"" + word + "\""
               : full_name(command) + " has no command " + word + did_you_mean(nearest(word, subcommands));
}

}  // namespace

Command Command::subcommand(const char* name, const char* help) {
    CLI::App* const app = app_->add_subcommand(name, help);
    if (!section_.empty()) {
        app->group(section_);
    }
    return {*app, *chosen_};
}

Command Command::group(const char* name, const char* help) {
    Command command = subcommand(name, help);
    command.app_->require_subcommand(1);
    return command;
}

void Command::alias(const char* name) { app_->alias(name); }

void Command::example(const std::string& words) { app_->footer("Example:\n  " + words); }

void Command::section(const char* title) { section_ = title; }

// Shows an option under the heading, with the name of its value.
CLI::Option* Command::shown(CLI::Option* option, const char* name) const {
    if (!section_.empty()) {
        option->group(section_);
    }
    if (const std::string_view value = value_name_in(name); !value.empty()) {
        option->type_name(std::string(value));
    } else if (option->get_positional()) {
        option->type_name("");  // its own name says it
    }
    return option;
}

void Command::required(const char* name, std::string& value, const char* help) {
    shown(app_->add_option(option_name_in(name), value, help), name)->required();
}

void Command::arguments(const char* name, std::vector<std::string>& values, const char* help) {
    shown(app_->add_option(option_name_in(name), values, help), name)->required();
}

void Command::optional_arguments(const char* name, std::vector<std::string>& values, const char* help) {
    shown(app_->add_option(option_name_in(name), values, help), name);
}

void Command::option(const char* name, std::string& value, const char* help) {
    shown(app_->add_option(option_name_in(name), value, help), name);
}

void Command::option(const char* name, std::string& value, std::vector<std::string> words, const char* help) {
    CLI::Option* const option = shown(app_->add_option(option_name_in(name), value, help), name);
    std::string all;
    for (const std::string& word : words) {
        all += (all.empty() ? "" : "|") + word;
    }
    option->type_name(all)->check(CLI::IsMember(std::move(words)).description(""));
}

void Command::option(const char* name, std::uint32_t& value, const char* help) {
    shown(app_->add_option(option_name_in(name), value, help), name);
}

void Command::option(const char* name, std::uint32_t& value, int least, int most, const char* help) {
    shown(app_->add_option(option_name_in(name), value, help), name)->check(CLI::Range(least, most));
}

void Command::option(const char* name, const std::function<void(const std::string&)>& take, const char* help) {
    shown(app_->add_option_function(option_name_in(name), take, help), name);
}

void Command::list(const char* name, std::vector<std::string>& values, const char* help) {
    shown(app_->add_option(option_name_in(name), values, help), name)->expected(1)->take_all();
}

void Command::flag(const char* name, bool& value, const char* help) {
    shown(app_->add_flag(option_name_in(name), value, help), name);
}

void Command::flag(const char* name, std::string& value, const char* help) {
    shown(app_->add_flag(option_name_in(name), value, help), name);
}

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

CommandInfo CommandLine::describe() const { return info_of(*app_); }

Result<Action> CommandLine::parse(int argc, const char* const* argv) {
    try {
        app_->parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() != 0) {
            std::vector<std::string> extras = app_->remaining(/*recurse=*/true);
            std::erase_if(extras, [&](const std::string& word) {  // of an earlier call
                return std::find(argv, argv + argc, word) == argv + argc;
            });
            const bool no_command = !extras.empty() && argc > 1 && extras.front() == argv[1];
            const CLI::App& command = no_command ? *app_ : used_command(*app_);
            return fail(ErrorKind::usage, extras.empty() ? error.what() : what_is_wrong_with(extras.front(), command),
                        "see " + full_name(command) + " --help");
        }
        app_->exit(error);  // prints what --help or --version asks for
        return Action([]() -> Result<int> { return 0; });
    }
    return chosen_;
}

}  // namespace snapvm::cli
