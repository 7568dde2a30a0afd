// SPDX-License-Identifier: Apache-2.0
// snapvm ps: lists the machines that run now, and those that have ended; rm and prune remove what
// ended ones have left.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/host/run_dir.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

// A machine that does not answer within this time is shown without its numbers, so that it does not
// hide the others.
constexpr std::chrono::seconds kPatience{2};

std::string uptime_text(std::uint64_t us) {
    const std::uint64_t s = us / 1'000'000;
    const auto two = [](std::uint64_t n) { return (n < 10 ? "0" : "") + std::to_string(n); };
    if (s < 60) {
        return std::to_string(s) + "s";
    }
    return s < 3600 ? std::to_string(s / 60) + "m" + two(s % 60) + "s"
                    : std::to_string(s / 3600) + "h" + two(s / 60 % 60) + "m";
}

Json describe(const std::string& socket, const std::string& name) {
    Json machine = {{"name", name}};
    auto client = connect_socket(socket, name);
    const auto body =
        client ? ask(*client, "GET", "/stats", {}, kPatience) : Result<std::string>(fail(std::move(client).error()));
    const Json stats = body ? Json::parse(*body, nullptr, /*allow_exceptions=*/false) : Json();
    if (!stats.is_object()) {
        machine["state"] = "no answer";
        return machine;
    }
    machine.update(stats);
    return machine;
}

// Describes a machine that has ended. A killed one has left no outcome.
Json describe_ended(const RunDir& dir, const std::string& name) {
    Json machine = {{"name", name}, {"state", "Ended"}};
    const Json outcome = Json::parse(dir.outcome(name), nullptr, /*allow_exceptions=*/false);
    if (!outcome.is_object()) {
        machine["outcome"] = "unknown";
        return machine;
    }
    machine.update(outcome);
    machine.erase("for");
    return machine;
}

void list_ended(const Globals& globals, const std::string& name, const Json& machine) {
    if (globals.json) {
        print_line(json_text(machine));
        return;
    }
    const std::string state =
        machine.contains("exit_code") ? "ended (" + json_text(machine["exit_code"]) + ")" : std::string("killed");
    print(stdout, "%-20s %8s %-11s %7s %4s %8s\n", name.c_str(), "-", state.c_str(), "-", "-", "-");
}

Result<int> ps(const Globals& globals, bool all) {
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    const std::vector<std::string> names = TRY(dir.running());
    if (!globals.json) {
        print(stdout, "%-20s %8s %-11s %7s %4s %8s\n", "NAME", "PID", "STATE", "MEM", "CPUS", "UPTIME");
    }
    for (const std::string& name : names) {
        const Json machine = describe(dir.socket_of(name), name);
        if (globals.json) {
            print_line(json_text(machine));
            continue;
        }
        const auto number = [&](const char* key) { return machine.value(key, std::uint64_t{0}); };
        // A process without an answer has no numbers, and an instance without a machine no memory.
        const auto shown = [&](const char* key, const auto& text) {
            return number(key) != 0 ? text(number(key)) : std::string("-");
        };
        const auto plain = [](std::uint64_t value) { return std::to_string(value); };
        const std::string reason = machine.value("pause_reason", "");
        print(stdout, "%-20s %8s %-11s %7s %4s %8s%s\n", name.c_str(), shown("pid", plain).c_str(),
              machine.value("state", "").c_str(), shown("memory_bytes", size_text).c_str(),
              shown("cpus", plain).c_str(), shown("uptime_us", uptime_text).c_str(),
              reason.empty() ? "" : ("  " + printable(reason)).c_str());
    }
    for (const std::string& name : all ? TRY(dir.ended()) : std::vector<std::string>()) {
        list_ended(globals, name, describe_ended(dir, name));
    }
    return 0;
}

// Removes each machine. A name that cannot be removed does not keep the others.
Result<int> remove(const Globals& globals, const RunDir& dir, const std::vector<std::string>& names) {
    int code = 0;
    for (const std::string& name : names) {
        if (const Status removed = dir.remove(name)) {
            print_line(name);
        } else {
            print_failure(removed.error(), globals.json);
            code = exit_code_of(removed.error());
        }
    }
    return code;
}

Result<int> prune(const Globals& globals) {
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    return remove(globals, dir, TRY(dir.ended()));
}

}  // namespace

void add_ps(Command program, Globals& globals) {
    Command command = program.subcommand("ps", "list running machines");
    command.alias("ls");
    command.example("snapvm ps -a --json");
    auto all = std::make_shared<bool>(false);
    command.flag("-a,--all", *all, "also those that have ended and were not removed");
    command.action([=, &globals] { return ps(globals, *all); });
}

void add_rm(Command program, Globals& globals) {
    Command command = program.subcommand("rm", "remove what ended machines have left: outcome and log");
    auto names = std::make_shared<std::vector<std::string>>();
    command.example("snapvm rm vm");
    command.arguments("NAME", *names, "the machines");
    command.action(
        [=, &globals]() -> Result<int> { return remove(globals, TRY(RunDir::find(globals.run_dir)), *names); });
}

void add_prune(Command program, Globals& globals) {
    Command command = program.subcommand("prune", "remove what all ended machines have left");
    command.example("snapvm prune");
    command.action([&globals] { return prune(globals); });
}

}  // namespace snapvm::cli
