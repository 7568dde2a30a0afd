// SPDX-License-Identifier: Apache-2.0
// Commands to a machine that the test plays: its process ends without an answer, or late.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <optional>

#include "tests/support/command.h"
#include "tests/support/need.h"
#include "tests/unit/vmm/api/fake_service.h"
#include "vmm/base/unix_socket.h"
#include "vmm/host/run_dir.h"

namespace snapvm::test {
namespace {

using api::test::FakeService;

class CliFakeMachine : public testing::Test {
protected:
    std::future<CommandResult> start(std::vector<std::string> arguments) {
        arguments.insert(arguments.end(), {"--run-dir", scratch_.file("run")});
        return std::async(std::launch::async, [arguments] { return snapvm_command(arguments); });
    }

    ScratchFolder scratch_;
    RunDir dir_ = need(RunDir::find(scratch_.file("run")));
    std::optional<NameClaim> process_ = need(NameClaim::take(dir_, "m"));  ///< while it is there, the process is
};

TEST_F(CliFakeMachine, TheOutcomeOfOneThatHasEndedIsKept) {
    need(process_->keep_outcome(R"({"for":"exit","outcome":"exit","exit_code":3})"));
    process_.reset();
    const CommandResult result = start({"wait", "m", "--for", "exit"}).get();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "3\n");
    EXPECT_EQ(start({"wait", "m", "--for", "exit", "--json"}).get().out,
              "{\"for\":\"exit\",\"outcome\":\"exit\",\"exit_code\":3}\n");
    EXPECT_EQ(start({"ps", "--json"}).get().out, "");
    EXPECT_EQ(start({"ps", "-a", "--json"}).get().out,
              "{\"name\":\"m\",\"state\":\"Ended\",\"outcome\":\"exit\",\"exit_code\":3}\n");
    EXPECT_NE(start({"ps", "-a"}).get().out.find(" ended (3) "), std::string::npos);
    EXPECT_EQ(start({"rm", "m"}).get().out, "m\n");
    EXPECT_EQ(start({"rm", "m"}).get().exit_code, 1);
    EXPECT_EQ(start({"ps", "-a", "--json"}).get().out, "");
    EXPECT_EQ(start({"wait", "m", "--for", "exit"}).get().err, "snapvm: no machine m runs; see snapvm ps\n");
}

TEST_F(CliFakeMachine, OneThatWasKilledIsListedAndPruned) {
    need(process_->keep_outcome("{\"exit_code\":0}"));
    process_.reset();
    // A killed process leaves its folder as it was.
    std::filesystem::create_directory(dir_.folder_of("k"));
    std::ofstream(dir_.folder_of("k") + "/lock") << "1";
    const std::optional<NameClaim> runs = need(NameClaim::take(dir_, "r"));
    EXPECT_NE(start({"ps", "-a"}).get().out.find(" killed "), std::string::npos);
    const CommandResult wait = start({"wait", "k", "--for", "exit"}).get();
    EXPECT_EQ(wait.exit_code, 1);
    EXPECT_NE(wait.err.find("machine k has ended, and its process has not said how"), std::string::npos) << wait.err;
    const CommandResult busy = start({"rm", "r", "k"}).get();
    EXPECT_EQ(busy.exit_code, 1);
    EXPECT_EQ(busy.out, "k\n");
    EXPECT_EQ(busy.err, "snapvm: machine r runs; stop it first: snapvm stop r\n");
    EXPECT_EQ(start({"prune"}).get().out, "m\n");
    EXPECT_TRUE(need(dir_.ended()).empty());
    EXPECT_EQ(need(dir_.running()), std::vector<std::string>{"r"});
}

/// One whose process answers.
class CliAnsweringMachine : public CliFakeMachine {
protected:
    // The process ends some time after the answer: a command that does not wait for that has
    // returned by then.
    CommandResult end_process(std::future<CommandResult> command) {
        server_->stop();  // with the answer given
        EXPECT_EQ(command.wait_for(200ms), std::future_status::timeout);
        process_.reset();
        return command.get();
    }

    FakeService service_;
    std::unique_ptr<api::Server> server_ = need(api::Server::start(dir_.socket_of("m"), service_));
};

TEST_F(CliAnsweringMachine, AWaitForItsEndReturnsWhenItsProcessIsGone) {
    auto command = start({"wait", "m", "--for", "exit"});
    ASSERT_TRUE(eventually([&] { return service_.waiting == 1; }));
    need(service_.stop({}));
    const CommandResult result = end_process(std::move(command));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "3\n");
}

TEST_F(CliAnsweringMachine, AStopReturnsWhenItsProcessIsGone) {
    auto command = start({"stop", "m"});
    ASSERT_TRUE(eventually([&] { return service_.state() == ServiceState::ended; }));
    EXPECT_EQ(end_process(std::move(command)).exit_code, 0);
}

TEST_F(CliAnsweringMachine, ASnapshotThatStopsItReturnsWhenItsProcessIsGone) {
    auto command = start({"snapshot", "m", scratch_.file("area"), "--then", "stop"});
    ASSERT_TRUE(eventually([&] { return service_.snapshots == 1; }));
    const CommandResult result = end_process(std::move(command));
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
}

// Takes as long as the command waits for the process, ten seconds.
TEST_F(CliAnsweringMachine, ASnapshotIsGoodThoughTheProcessIsSlowToEnd) {
    const CommandResult result = start({"snapshot", "m", scratch_.file("area"), "--then", "stop"}).get();
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_NE(result.out.find("pages: "), std::string::npos) << result.out;
    EXPECT_EQ(result.err,
              "snapvm: the snapshot is complete; machine m has stopped, but its process has not ended within 10 s\n");
}

/// One whose process dies without an answer.
class CliDyingMachine : public CliFakeMachine {
protected:
    // A connection, and the request on it.
    UniqueFd accept_request() {
        pollfd entry{listener_.fd(), POLLIN, 0};
        if (::poll(&entry, 1, 60'000) != 1) {
            ADD_FAILURE() << "the command does not connect";
            return {};
        }
        UniqueFd client(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC));
        std::string request;
        for (char c = 0; !request.ends_with("\r\n\r\n") && ::read(client.get(), &c, 1) == 1;) {
            request += c;
        }
        return client;
    }

    Listener listener_ = need(Listener::open(dir_.socket_of("m"), ""));
};

TEST_F(CliDyingMachine, AConsoleSaysThatTheEndIsNotKnown) {
    auto command = start({"console", "m"});
    UniqueFd ending = accept_request();
    UniqueFd console = accept_request();
    const std::string_view opened =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: snapvm-console\r\n\r\nlast words";
    ASSERT_EQ(::write(console.get(), opened.data(), opened.size()), static_cast<ssize_t>(opened.size()));
    ending.reset();
    console.reset();
    listener_.close();
    process_.reset();
    const CommandResult result = command.get();
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "last words");
    EXPECT_EQ(result.err, "snapvm: machine m has ended, and its process has not said how\n");
}

}  // namespace
}  // namespace snapvm::test
