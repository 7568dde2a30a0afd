// SPDX-License-Identifier: Apache-2.0
// Runs machines as a user does: through the binary, with a run folder for each test.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/command.h"
#include "tests/support/require_kvm.h"

namespace snapvm::test {

using nlohmann::json;

class Cli : public testing::Test {
protected:
    void SetUp() override { SNAPVM_REQUIRE_KVM(); }
    void TearDown() override {
        for (const std::string& name : machines()) {
            (void)command({"stop", name, "--force"});
        }
    }

    CommandResult command(std::vector<std::string> arguments, const std::string& input = {}) {
        arguments.insert(arguments.end(), {"--run-dir", scratch_.file("run")});
        return snapvm_command(arguments, input);
    }
    /// Returns the output of a command with --json. Fails the test if the command fails.
    json json_of(std::vector<std::string> arguments) {
        arguments.emplace_back("--json");
        const CommandResult result = command(arguments);
        EXPECT_EQ(result.exit_code, 0) << result.err;
        return json::parse(result.out, nullptr, false);
    }
    CommandResult run_ledger(const std::string& cmdline, const std::string& input, std::vector<std::string> more = {}) {
        more.insert(more.begin(), {"run", "--kernel", "builtin:ledger", "--mem", "64M", "--cmdline", cmdline});
        return command(more, input);
    }
    std::vector<std::string> machines() {
        std::vector<std::string> names;
        std::istringstream lines(command({"ps", "--json"}).out);
        for (std::string line; std::getline(lines, line);) {
            const json machine = json::parse(line, nullptr, false);
            if (machine.is_object()) {
                names.push_back(machine.value("name", machine.value("id", "")));
            }
        }
        return names;
    }
    json start(const std::string& name) {
        const CommandResult started = run_ledger("ws=4M", "", {"-d", "--name", name, "--json"});
        EXPECT_EQ(started.exit_code, 0) << started.err;
        return json::parse(started.out, nullptr, false);
    }

    ScratchFolder scratch_;
};

}  // namespace snapvm::test
