// SPDX-License-Identifier: Apache-2.0
// A machine's process opens everything by path before it has threads, and later only from folders
// that it holds by descriptor (ARCHITECTURE.md, "What is opened when").
#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>

#include "guest-images/ledger/load_format.h"
#include "tests/kvm/cli_fixture.h"
#include "tests/support/need.h"
#include "tests/support/paths.h"
#include "tests/support/traced_program.h"
#include "vmm/api/client.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {
namespace {

class Opens : public Cli {
protected:
    void SetUp() override {
        Cli::SetUp();
        if (SNAPVM_SANITIZED != 0) {
            GTEST_SKIP() << "a sanitizer's runtime opens files itself, and its search for leaks needs ptrace";
        }
    }

    void start_traced(std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), snapvm_program());
        arguments.insert(arguments.end(), {"--run-dir", scratch_.file("run")});
        program_ = std::make_unique<TracedProgram>(arguments, scratch_.file("output"));
    }
    void run_traced(const std::string& name, const std::vector<std::string>& more) {
        std::vector<std::string> arguments = {"run",   "--name", name,        "--kernel",       "builtin:ledger",
                                              "--mem", "64M",    "--cmdline", "ws=4M load=64K", "--serial",
                                              "none"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        start_traced(arguments);
    }
    void expect_ready(const std::string& name) {
        EXPECT_TRUE(eventually([&] { return command({"wait", name, "--for", "ready"}).exit_code == 0; })) << output();
    }
    void expect_success(const std::vector<std::string>& arguments) {
        const CommandResult result = command(arguments);
        EXPECT_EQ(result.exit_code, 0) << result.err;
    }
    std::string output() {
        std::ifstream file(scratch_.file("output"));
        return {std::istreambuf_iterator<char>(file), {}};
    }
    /// Stops the machine. Expects that the program's calls by path came before its threads, but for
    /// the bind of `socket`, and returns all of its calls.
    std::vector<PathCall> stop(const std::string& name, const std::string& socket = {}) {
        expect_success({"stop", name, "--force"});
        EXPECT_EQ(program_->wait(), 0) << output();
        const std::vector<PathCall> calls = program_->calls();
        for (const PathCall& call : calls) {
            const bool bound = call.call == "bind" && call.path == socket;
            EXPECT_TRUE(!call.after_threads || call.by_descriptor || bound)
                << call.call << " " << call.path << " by path, after threads were started";
        }
        return calls;
    }
    static bool has(const std::vector<PathCall>& calls, const std::string& end, bool after_threads) {
        return std::ranges::any_of(calls, [&](const PathCall& call) {
            return call.path.ends_with(end) && call.after_threads == after_threads;
        });
    }
    /// A host program at the port that the guest connects to.
    Listener load_listener() {
        return need(Listener::open(scratch_.file("v") + "_" + std::to_string(ledger::kLoadPort), "another path"));
    }
    static void expect_connection(const Listener& listener) {
        EXPECT_TRUE(eventually([&] { return UniqueFd(::accept4(listener.fd(), nullptr, nullptr, 0)).valid(); }));
    }

    std::unique_ptr<TracedProgram> program_;
};

TEST_F(Opens, WhatIsNamedAtTheStartIsOpenBeforeThereAreThreads) {
    const Listener host = load_listener();
    const std::string disk = scratch_.file("disk");
    std::ofstream(disk).close();
    std::filesystem::resize_file(disk, 1 << 20);
    run_traced("a", {"--disk", "id=d,path=" + disk, "--vsock", "cid=3,socket=" + scratch_.file("v"), "--rng",
                     "--console", "file=" + scratch_.file("console"), "--api-socket", scratch_.file("api")});
    expect_ready("a");
    expect_connection(host);
    expect_success({"snapshot", "a", scratch_.file("area")});
    expect_success({"snapshot", "a", scratch_.file("other"), "--cache", "direct"});
    EXPECT_TRUE(std::filesystem::is_symlink(scratch_.file("api")));

    const std::vector<PathCall> calls = stop("a");
    for (const char* early : {"disk", "v", "console", "api", "dev/kvm", "a/api.sock", "lock"}) {
        EXPECT_TRUE(has(calls, early, false)) << early;
    }
    for (const char* late : {"area", "other", "self/pagemap", "api.sock", "lock"}) {
        EXPECT_TRUE(has(calls, late, true)) << late;
    }
    EXPECT_TRUE(has(calls, "v_" + std::to_string(ledger::kLoadPort), true)) << "the guest's connection";
    for (const char* gone : {"api", "v", "run/a"}) {
        EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(scratch_.file(gone)))) << gone;
    }
}

TEST_F(Opens, WithoutItsApiSocketNothingRuns) {
    run_traced("a", {"--api-socket", scratch_.file("nowhere") + "/api"});
    EXPECT_EQ(program_->wait(), 1);
    EXPECT_NE(output().find("symlink " + scratch_.file("nowhere") + "/api"), std::string::npos) << output();
    EXPECT_TRUE(std::ranges::none_of(program_->calls(), &PathCall::after_threads));
    EXPECT_TRUE(std::filesystem::is_empty(scratch_.file("run")));
}

TEST_F(Opens, ARestoredMachineToo) {
    start("source");
    const std::string area = scratch_.file("area");
    expect_success({"wait", "source", "--for", "ready"});
    expect_success({"snapshot", "source", area, "--then", "stop"});
    start_traced({"restore", area, "--name", "b", "--serial", "file=" + scratch_.file("serial")});
    expect_ready("b");
    // The machine maps this area, so the snapshot is refused. The refusal names the machine.
    const CommandResult refused = command({"snapshot", "b", area});
    EXPECT_NE(refused.err.find("a machine maps the snapshot in it: b"), std::string::npos) << refused.err;
    expect_success({"detach", "b"});
    expect_success({"snapshot", "b", area});

    const std::vector<PathCall> calls = stop("b");
    EXPECT_TRUE(has(calls, "area", false));
    EXPECT_TRUE(has(calls, "serial", false));
    EXPECT_TRUE(has(calls, "lock", true));
}

TEST_F(Opens, AMachineThatIsLoadedLaterComesByDescriptors) {
    std::string area = scratch_.file("area");
    {
        const Listener host = load_listener();
        run_traced("source", {"--vsock", "cid=3,socket=" + scratch_.file("v")});
        expect_ready("source");
        expect_success({"snapshot", "source", area, "--then", "stop"});
        EXPECT_EQ(program_->wait(), 0) << output();
    }
    start_traced({"run", "--name", "c", "--serial", "none"});
    const std::string socket = scratch_.file("run") + "/c/api.sock";
    EXPECT_TRUE(eventually([&] { return api::ApiClient::connect(socket).has_value(); })) << output();
    auto client = need(api::ApiClient::connect(socket));
    const json body = {
        {"snapshot_path", area}, {"resume_vm", true}, {"vsock_override", {{"uds_path", scratch_.file("w")}}}};
    EXPECT_EQ(need(client.request("PUT", "/snapshot/load", body.dump(), kPatience)).status, 204);
    expect_success({"snapshot", "c", scratch_.file("other")});

    // bind(2) takes no descriptor of a folder (Opener::bind).
    const std::vector<PathCall> calls = stop("c", scratch_.file("w"));
    for (const char* late : {"area", "w", "other"}) {
        EXPECT_TRUE(has(calls, late, true)) << late;
    }
}

}  // namespace
}  // namespace snapvm::test
