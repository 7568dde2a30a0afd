// SPDX-License-Identifier: Apache-2.0
// snapvm stop: ends machines.
#include <fnmatch.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <ranges>
#include <span>
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
// A connection takes a descriptor, of which a process may have 1,024 (ulimit -n).
constexpr std::size_t kAtATime = 200;

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

// Asks once more if the connection broke without an answer: it may have made room for another.
Result<std::string> wait_or_ask_again(Result<api::ApiClient>& asked, const RunDir& dir, const std::string& name,
                                      bool force, const Patience& patience) {
    auto outcome = wait_stopped(asked, dir, name, patience);
    if (outcome || outcome.error().code() != ECONNRESET || !dir.is_running(name)) {
        return outcome;
    }
    asked = ask_to_stop(dir, name, force, patience);
    return wait_stopped(asked, dir, name, patience);
}

// For a process that hangs, or was stopped by SIGSTOP.
Result<std::string> kill(const RunDir& dir, const std::string& name) {
    TRY(dir.kill(name));
    TRY(dir.wait_gone(name, std::chrono::steady_clock::now() + kQuickAnswer));
    print_error("machine " + name + " did not answer, and was killed");
    return json_text(Json{{"outcome", "killed"}});
}

// Asks all of these machines first, so that their guests power off at the same time.
int stop_together(const Globals& globals, const StopOptions& options, const RunDir& dir, const Patience& patience,
                  std::span<const std::string> names) {
    std::vector<Result<api::ApiClient>> asked;
    asked.reserve(names.size());
    for (const std::string& name : names) {
        asked.push_back(ask_to_stop(dir, name, options.force, patience));
    }
    int code = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
        auto outcome = wait_or_ask_again(asked[i], dir, names[i], options.force, patience);
        // A refusal is an answer.
        const bool hangs =
            !outcome && (outcome.error().kind() == ErrorKind::system || outcome.error().kind() == ErrorKind::busy);
        if (hangs && options.force && dir.is_running(names[i])) {
            // A process that cannot be found keeps the first error.
            if (auto killed = kill(dir, names[i]); killed || killed.error().kind() != ErrorKind::not_found) {
                outcome = std::move(killed);
            }
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

Result<int> stop(const Globals& globals, const StopOptions& options) {
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    const std::vector<std::string> names = TRY(chosen(dir, options));
    const Patience patience = options.force ? Patience{milliseconds(0), kForcedEnd}
                                            : Patience{TRY(parse_timeout(options.timeout)), kQuickAnswer};
    int code = 0;
    for (std::span<const std::string> rest = names; !rest.empty();) {
        const auto some = rest.first(std::min(rest.size(), kAtATime));
        if (const int failed = stop_together(globals, options, dir, patience, some); failed != 0) {
            code = failed;
        }
        rest = rest.subspan(some.size());
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
    command.flag("--force", options->force,
                 "call a snapshot or a detach off, end the run at once, and kill a process that does not end");
    command.action([=, &globals] { return stop(globals, *options); });
}

}  // namespace snapvm::cli
