// SPDX-License-Identifier: Apache-2.0
// snapvm wait: waits until a machine is ready, has ended, or has printed a line.
//
// Exit code 0 means that the event happened, also for `--for exit`: the guest's own code is printed
// (as `docker wait` does), so that it cannot be mistaken for this command's. 124 means a timeout.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "vmm/api/bodies.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/host/run_dir.h"

namespace snapvm::cli {
namespace {

constexpr unsigned kRequestTimeout = 408;

struct WaitOptions {
    std::string name;
    std::string what;
    std::string timeout = "30s";
};

Result<std::string> target_of(const WaitOptions& options, std::chrono::milliseconds timeout) {
    const std::size_t equals = options.what.find('=');
    const std::string what = options.what.substr(0, equals);
    std::string query = "for=" + api::percent_encode(what) + "&timeout_ms=" + std::to_string(timeout.count());
    if (equals != std::string::npos) {
        query += "&regex=" + api::percent_encode(std::string_view(options.what).substr(equals + 1));
    }
    if ((what == "serial") != (equals != std::string::npos) || !api::parse_wait(query)) {
        auto parsed = api::parse_wait(query);
        return fail(ErrorKind::usage,
                    "--for " + options.what + (parsed ? " cannot be waited for" : ": " + parsed.error().message()),
                    "write --for ready, exit or serial=REGEX");
    }
    return "/wait?" + query;
}

void print_result(const Globals& globals, const std::string& body) {
    if (globals.json) {
        print_line(body);
        return;
    }
    const auto fields = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
    if (fields.contains("exit_code")) {
        print_line(json_text(fields["exit_code"]));
    } else if (fields.contains("line")) {
        print_line(fields.value("line", ""));
    }
}

// Returns how a machine ended whose process does not answer, once that process is gone.
Result<std::string> kept_outcome(const Globals& globals, const std::string& name, const Error& no_answer) {
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    TRY(dir.wait_gone(name, std::chrono::steady_clock::now() + kQuickAnswer));
    std::string outcome = dir.outcome(name);
    if (!outcome.empty()) {
        return outcome;
    }
    const std::vector<std::string> ended = TRY(dir.ended());
    if (std::ranges::find(ended, name) != ended.end()) {
        return fail(ErrorKind::not_found, "machine " + name + " has ended, and its process has not said how",
                    "it was killed, or did not run detached");
    }
    return fail(no_answer);
}

Result<int> wait(const Globals& globals, const WaitOptions& options) {
    const auto timeout = TRY(parse_timeout(options.timeout));
    const std::string target = TRY(target_of(options, timeout));
    auto client = connect_machine(globals, options.name);
    const Result<api::ApiReply> answer = client ? client->request("GET", target, {}, timeout + kQuickAnswer)
                                                : Result<api::ApiReply>(fail(client.error()));
    if (!answer && options.what == "exit") {
        print_result(globals, TRY(kept_outcome(globals, options.name, answer.error())));
        return 0;
    }
    if (!answer) {
        return fail(answer.error());
    }
    const api::ApiReply& reply = *answer;
    if (reply.status == kRequestTimeout) {
        print_failure(refusal(reply), globals.json);
        return kExitTimeout;
    }
    if (reply.status != 200) {
        return fail(refusal(reply));
    }
    if (options.what == "exit") {
        // Waits, so that the next command finds the name free. The run has ended even if its
        // process is delayed, for example by output that is not read.
        (void)wait_gone(globals, options.name, kQuickAnswer);
    }
    print_result(globals, reply.body);
    return 0;
}

}  // namespace

void add_wait(Command program, Globals& globals) {
    Command command = program.subcommand("wait", "wait for a guest; exit code 124 if the time is over");
    auto options = std::make_shared<WaitOptions>();
    command.example("snapvm wait vm --for 'serial=^login:' --timeout 60s");
    command.required("NAME", options->name, "the machine");
    command.required("--for ready|exit|serial=REGEX", options->what,
                     "ready, exit (prints the run's exit code, also of a detached machine that has ended), or "
                     "serial=REGEX (prints the line)");
    command.option("--timeout TIME", options->timeout, "how long to wait (default: 30s)");
    command.action([=, &globals] { return wait(globals, *options); });
}

}  // namespace snapvm::cli
