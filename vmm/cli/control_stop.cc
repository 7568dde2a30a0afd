// SPDX-License-Identifier: Apache-2.0
// snapvm stop: ends machines.
#include <fnmatch.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ranges>
#include <string>
#include <vector>

#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/host/run_dir.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;

// Longer than a process takes to give up its disks and the readers of its output.
constexpr std::chrono::seconds kForcedEnd{7};

struct StopOptions {
    std::vector<std::string> names;
    bool all = false;
    std::string timeout = "5s";
    bool force = false;
};

// How long a machine may take to end, and then its process.
struct Patience {
    milliseconds machine;
    milliseconds process;
    [[nodiscard]] milliseconds both() const { return machine + process; }
};

// Returns the machines that the words name. A word with *, ? or [ stands for the running machines
// that match it.
Result<std::vector<std::string>> chosen(const RunDir& dir, const StopOptions& options) {
    if (options.all == !options.names.empty()) {
        return fail(ErrorKind::usage, "snapvm stop needs the names of machines, or --all", "see snapvm stop --help");
    }
    std::vector<std::string> running = TRY(dir.running());
    if (options.all) {
        return running;
    }
    std::vector<std::string> names;
    const auto add = [&](const std::string& name) {
        if (std::ranges::find(names, name) == names.end()) {
            names.push_back(name);
        }
    };
    for (const std::string& word : options.names) {
        if (word.find_first_of("*?[") == std::string::npos) {
            add(word);
            continue;
        }
        const auto matches = [&](const std::string& name) { return ::fnmatch(word.c_str(), name.c_str(), 0) == 0; };
        if (std::ranges::none_of(running, matches)) {
            return fail(ErrorKind::not_found, "no machine that matches " + word + " runs", "see snapvm ps");
        }
        std::ranges::for_each(running | std::views::filter(matches), add);
    }
    return names;
}

Result<api::ApiClient> ask_to_stop(const RunDir& dir, const std::string& name, bool force, const Patience& patience) {
    TRY(dir.check(name));
    api::ApiClient client = TRY(connect_socket(dir.socket_of(name), name));
    const std::string body = json_text(Json{{"force", force}, {"timeout_ms", patience.machine.count()}});
    TRY(client.send("PUT", "/stop", body, kQuickAnswer));
    return client;
}

// Returns the outcome as the machine reports it, when its process is gone.
Result<std::string> wait_stopped(Result<api::ApiClient>& asked, const RunDir& dir, const std::string& name,
                                 const Patience& patience) {
    if (!asked) {
        return fail(asked.error());
    }
    api::ApiReply reply = TRY(asked->receive(patience.both()));
    if (reply.status / 100 != 2) {
        return fail(refusal(reply));
    }
    TRY(dir.wait_gone(name, std::chrono::steady_clock::now() + patience.both()));
    return std::move(reply.body);
}

// For a process that hangs, or was stopped by SIGSTOP.
Result<std::string> kill(const RunDir& dir, const std::string& name) {
    TRY(dir.kill(name));
    TRY(dir.wait_gone(name, std::chrono::steady_clock::now() + kQuickAnswer));
    print_error("machine " + name + " did not answer, and was killed");
    return json_text(Json{{"outcome", "killed"}});
}

// Asks all machines first, so that their guests power off at the same time.
Result<int> stop(const Globals& globals, const StopOptions& options) {
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    const std::vector<std::string> names = TRY(chosen(dir, options));
    const Patience patience = options.force ? Patience{milliseconds(0), kForcedEnd}
                                            : Patience{TRY(parse_timeout(options.timeout)), kQuickAnswer};
    std::vector<Result<api::ApiClient>> asked;
    asked.reserve(names.size());
    for (const std::string& name : names) {
        asked.push_back(ask_to_stop(dir, name, options.force, patience));
    }
    int code = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
        auto outcome = wait_stopped(asked[i], dir, names[i], patience);
        // A refusal is an answer.
        const bool hangs =
            !outcome && (outcome.error().kind() == ErrorKind::system || outcome.error().kind() == ErrorKind::busy);
        if (hangs && options.force && dir.is_running(names[i])) {
            outcome = kill(dir, names[i]);
        }
        if (!outcome) {
            print_failure(outcome.error(), globals.json);
            code = exit_code_of(outcome.error());
        } else if (globals.json) {
            Json line = {{"name", names[i]}};
            const Json answer = Json::parse(*outcome, nullptr, /*allow_exceptions=*/false);
            line.update(answer.is_object() ? answer : Json::object());
            print_line(json_text(line));
        }
    }
    return code;
}

}  // namespace

void add_stop(Command program, Globals& globals) {
    Command command =
        program.subcommand("stop", "press machines' power buttons, end them, and wait until their processes are gone");
    auto options = std::make_shared<StopOptions>();
    command.example("snapvm stop 'clone-*' --force");
    command.optional_arguments("NAME", options->names, "machines; *, ? and [a-z] match parts of names");
    command.flag("--all", options->all, "stop all running machines");
    command.option("--timeout TIME", options->timeout,
                   "how long to wait for a snapshot or a detach, and for the guest's power-off (default: 5s)");
    command.flag("--force", options->force, "wait for neither, and kill a process that does not end");
    command.action([=, &globals] { return stop(globals, *options); });
}

}  // namespace snapvm::cli
