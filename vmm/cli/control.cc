// SPDX-License-Identifier: Apache-2.0
// Commands that ask a running machine one thing: pause, resume, stop, stats.
#include "vmm/cli/control.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/run_dir.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

Result<int> set_state(const Globals& globals, const std::string& name, const char* state, const char* result) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    // A pause waits for the guest's disks.
    TRY(ask(client, "PATCH", "/vm", Json{{"state", state}}.dump(), kDrainLimit + kQuickAnswer));
    if (globals.json) {
        print_line(Json{{"name", name}, {"state", result}}.dump());
    }
    return 0;
}

void add_state_command(CLI::App& app, Globals& globals, Action& chosen, const char* command_name, const char* help,
                       const char* state, const char* result) {
    CLI::App* command = app.add_subcommand(command_name, help);
    auto name = std::make_shared<std::string>();
    command->add_option("NAME", *name, "the machine")->required();
    command->callback([=, &globals, &chosen] { chosen = [=, &globals] { return set_state(globals, *name, state, result); }; });
}

struct StopOptions {
    std::string name;
    std::string timeout = "5s";
    bool force = false;
};

Result<int> stop(const Globals& globals, const StopOptions& options) {
    const auto timeout = TRY(parse_timeout(options.timeout));
    api::ApiClient client = TRY(connect_machine(globals, options.name));
    const std::string body = Json{{"force", options.force}, {"timeout_ms", timeout.count()}}.dump();
    const std::string outcome = TRY(ask(client, "PUT", "/stop", body, timeout + kQuickAnswer));
    TRY(wait_gone(globals, options.name, timeout + kQuickAnswer));
    if (globals.json) {
        print_line(outcome);
    }
    return 0;
}

std::string scalar_text(const nlohmann::json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// One line a number: those of an object under its name and a dot, those of a list of such under their ids, and of any other list how long it is.
void print_fields(const Json& fields, const std::string& prefix) {
    for (const auto& [key, value] : fields.items()) {
        const std::string name = prefix + key;
        if (value.is_object()) {
            print_fields(value, name + ".");
            continue;
        }
        if (value.is_array() && !value.empty() && value.front().contains("id")) {
            for (Json one : value) {
                const std::string inner = name + "." + scalar_text(one["id"]);
                one.erase("id");
                print_fields(one, inner + ".");
            }
            continue;
        }
        const std::string text = value.is_array() ? std::to_string(value.size()) : scalar_text(value);
        std::printf("%-28s %s\n", name.c_str(), text.c_str());
    }
}

Result<int> stats(const Globals& globals, const std::string& name) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    const std::string body = TRY(ask(client, "GET", "/stats", {}, kQuickAnswer));
    if (globals.json) {
        print_line(body);
        return 0;
    }
    print_fields(Json::parse(body, nullptr, /*allow_exceptions=*/false), "");
    return 0;
}

}  // namespace

Result<std::string> socket_of(const Globals& globals, const std::string& name) {
    return TRY(RunDir::find(globals.run_dir)).socket_of(name);
}

Result<api::ApiClient> connect_socket(const std::string& api_socket, const std::string& name) {
    auto client = api::ApiClient::connect(api_socket);
    if (!client && client.error().kind() == ErrorKind::not_found) {
        return fail(ErrorKind::not_found, "no machine " + name + " runs", "see snapvm ps");
    }
    return client;
}

Result<api::ApiClient> connect_machine(const Globals& globals, const std::string& name) {
    return connect_socket(TRY(socket_of(globals, name)), name);
}

Status wait_gone(const Globals& globals, const std::string& name, std::chrono::milliseconds timeout) {
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    return dir.wait_gone(name, std::chrono::steady_clock::now() + timeout);
}

Error refusal(const api::ApiReply& reply) { return {ErrorKind::invalid, reply.fault()}; }

Result<std::string> ask(api::ApiClient& client, std::string_view method, std::string_view target, const std::string& body,
                        std::chrono::milliseconds timeout) {
    api::ApiReply reply = TRY(client.request(method, target, body, timeout));
    if (reply.status / 100 != 2) {
        return fail(refusal(reply));
    }
    return std::move(reply.body);
}

void print_line(std::string_view text) { std::printf("%.*s\n", static_cast<int>(text.size()), text.data()); }

Result<std::chrono::milliseconds> parse_timeout(const std::string& text) {
    return std::chrono::ceil<std::chrono::milliseconds>(TRY(parse_duration(text)));
}

void add_pause(CLI::App& app, Globals& globals, Action& chosen) {
    add_state_command(app, globals, chosen, "pause", "stop a machine's vCPUs until it is resumed", "Paused", "Paused");
}

void add_resume(CLI::App& app, Globals& globals, Action& chosen) {
    add_state_command(app, globals, chosen, "resume", "let a paused machine run on", "Resumed", "Running");
}

void add_stop(CLI::App& app, Globals& globals, Action& chosen) {
    CLI::App* command = app.add_subcommand("stop", "press a machine's power button, end it, and wait until its process is gone");
    auto options = std::make_shared<StopOptions>();
    command->add_option("NAME", options->name, "the machine")->required();
    command->add_option("--timeout", options->timeout,
                        "how long to let a snapshot that is being written finish, and the guest power off (default: 5s)");
    command->add_flag("--force", options->force, "wait for neither");
    command->callback([=, &globals, &chosen] { chosen = [=, &globals] { return stop(globals, *options); }; });
}

void add_stats(CLI::App& app, Globals& globals, Action& chosen) {
    CLI::App* command = app.add_subcommand("stats", "a running machine's counters");
    auto name = std::make_shared<std::string>();
    command->add_option("NAME", *name, "the machine")->required();
    command->callback([=, &globals, &chosen] { chosen = [=, &globals] { return stats(globals, *name); }; });
}

}  // namespace snapvm::cli
