// SPDX-License-Identifier: Apache-2.0
// Commands with one request to a running machine: pause, resume, stats.
#include "vmm/cli/control.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/host/run_dir.h"
#include "vmm/machine/machine.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

Result<int> set_state(const Globals& globals, const std::string& name, const char* state, const char* result) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    // A pause waits for in-flight requests of the guest's disks.
    TRY(ask(client, "PATCH", "/vm", json_text(Json{{"state", state}}), kDrainLimit + kQuickAnswer));
    if (globals.json) {
        print_line(json_text(Json{{"name", name}, {"state", result}}));
    }
    return 0;
}

void add_state_command(Command program, Globals& globals, const char* command_name, const char* help, const char* state,
                       const char* result) {
    Command command = program.subcommand(command_name, help);
    auto name = std::make_shared<std::string>();
    command.example(std::string("snapvm ") + command_name + " vm");
    command.required("NAME", *name, "the machine");
    command.action([=, &globals] { return set_state(globals, *name, state, result); });
}

std::string scalar_text(const Json& value) { return value.is_string() ? value.get<std::string>() : json_text(value); }

// Prints one number in each line. Those of an object have its name and a dot before them, those of
// a list of objects their ids. Of any other list it prints the length.
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
        print(stdout, "%-28s %s\n", name.c_str(), text.c_str());
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
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    TRY(dir.check(name));
    return dir.socket_of(name);
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

Result<std::string> ask(api::ApiClient& client, std::string_view method, std::string_view target,
                        const std::string& body, std::chrono::milliseconds timeout) {
    api::ApiReply reply = TRY(client.request(method, target, body, timeout));
    if (reply.status / 100 != 2) {
        return fail(refusal(reply));
    }
    return std::move(reply.body);
}

Result<std::chrono::milliseconds> parse_timeout(const std::string& text) {
    return std::chrono::ceil<std::chrono::milliseconds>(TRY(parse_duration(text)));
}

void add_pause(Command program, Globals& globals) {
    add_state_command(std::move(program), globals, "pause", "stop a machine's vCPUs until it is resumed", "Paused",
                      "Paused");
}

void add_resume(Command program, Globals& globals) {
    add_state_command(std::move(program), globals, "resume", "let a paused machine run on", "Resumed", "Running");
}

void add_stats(Command program, Globals& globals) {
    Command command = program.subcommand("stats", "print a running machine's counters");
    auto name = std::make_shared<std::string>();
    command.example("snapvm stats vm --json");
    command.required("NAME", *name, "the machine");
    command.action([=, &globals] { return stats(globals, *name); });
}

}  // namespace snapvm::cli
