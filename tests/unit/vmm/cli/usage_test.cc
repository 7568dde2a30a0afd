// SPDX-License-Identifier: Apache-2.0
// The command line's refusals, which need no KVM: exit 2 for bad usage, 1 for what is wrong
// outside, one line on stderr, nothing on stdout, nothing left behind.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/command.h"

namespace snapvm::test {
namespace {

void expect_refused(const std::vector<std::string>& arguments, int exit_code, const std::string& names) {
    const CommandResult result = snapvm_command(arguments);
    std::string line;
    for (const std::string& word : arguments) {
        line += word + " ";
    }
    EXPECT_EQ(result.exit_code, exit_code) << line << result.err;
    EXPECT_EQ(result.out, "") << line;
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << line << result.err;
    EXPECT_TRUE(result.err.starts_with("snapvm: ")) << line << result.err;
    EXPECT_NE(result.err.find(names), std::string::npos) << line << "says " << result.err;
}

TEST(CliUsage, UnknownCommandsFlagsAndValues) {
    expect_refused({}, 2, "subcommand");
    expect_refused({"fly"}, 2, "fly");
    expect_refused({"rm"}, 2, "NAME");
    expect_refused({"rm", "../b"}, 2, "\"../b\" is not a name for a machine");
    expect_refused({"run"}, 2, "--kernel");
    expect_refused({"run", "-d"}, 2, "--kernel");
    expect_refused({"run", "--name", "n", "--mem", "64M"}, 2, "--mem needs --kernel");
    expect_refused({"run", "--api-socket", "/s", "--rng"}, 2, "--rng needs --kernel");
    expect_refused({"run", "--name", "n", "--kernel", ""}, 1, "");
    expect_refused({"run", "--kernel", "builtin:ledger", "--warp"}, 2, "--warp");
    expect_refused({"run", "--kernel", "builtin:ledger", "--boot", "bios"}, 2, "--boot");
    expect_refused({"run", "--kernel", "builtin:ledger", "--pages", "1g"}, 2, "--pages");
    expect_refused({"run", "--kernel", "builtin:nothing"}, 2, "builtin:ledger");
    expect_refused({"run", "--kernel", "builtin:ledger", "--serial", "tcp"}, 2, "stdio");
    expect_refused({"run", "--kernel", "builtin:ledger", "--console", "tcp"}, 2, "virtio console");
    expect_refused({"run", "--kernel", "builtin:ledger", "--console", "stdio", "--serial", "stdio"}, 2, "both");
    expect_refused({"run", "--kernel", "builtin:ledger", "-d", "--console", "stdio"}, 2, "detached");
    for (const char* vsock :
         {"cid=3", "socket=/x", "cid=x,socket=/x", "cid=2,socket=/x", "cid=3,cid=4,socket=/x", "cid=3,port=1"}) {
        expect_refused({"run", "--kernel", "builtin:ledger", "--vsock", vsock}, 2, "vsock");
    }
    expect_refused({"run", "--kernel", "builtin:ledger", "-d", "--serial", "stdio"}, 2, "detached");
    for (const char* disk : {"root", "id=root", "path=/x", "id=root,path=", "id=root,path=/x,readonly=maybe",
                             "id=root,path=/x,size=3", "id=root,path=/x,id=data", "id=root,path=/x,", ""}) {
        expect_refused({"run", "--kernel", "builtin:ledger", "--disk", disk}, 2, "write --disk id=ID,path=FILE");
    }
    for (const char* net : {"eth0", "id=eth0", "tap=tap0", "id=eth0,tap=", "id=eth0,tap=t,mtu=9000",
                            "id=eth0,tap=t,tap=u", "id=eth0,tap=t,", ""}) {
        expect_refused({"run", "--kernel", "builtin:ledger", "--net", net}, 2, "write --net id=ID,tap=TAP");
    }
    for (const char* mac : {"2", "02:00:00:00:00", "02:00:00:00:00:0g", "02:00:00:00:00:000", "02-00-00-00-00-0a",
                            "01:00:00:00:00:0a", "00:00:00:00:00:00"}) {
        expect_refused({"run", "--kernel", "builtin:ledger", "--net", std::string("id=eth0,tap=t,mac=") + mac}, 2,
                       "MAC");
    }
    expect_refused({"run", "--kernel", "builtin:ledger", "--net", "id=a,tap=t", "--disk", "id=a,path=/y"}, 2,
                   "two devices");
    expect_refused({"run", "--kernel", "builtin:ledger", "--disk", "id=a,path=/x", "--disk", "id=a,path=/y"}, 2,
                   "two devices");
    expect_refused({"restore", "/nonexistent", "--clock", "stop"}, 2, "--clock");
    expect_refused({"area", "create", "/tmp/x", "--mem", "64M", "--slots", "3"}, 2, "--slots");
    expect_refused({"snapshot", "nobody"}, 2, "AREA");
}

TEST(CliUsage, MistypedWordsAreNamedWithTheNearestOne) {
    expect_refused({"restroe", "area"}, 2, "snapvm has no command restroe: did you mean restore?; see snapvm --help");
    expect_refused({"run", "--kernel", "builtin:ledger", "--nmae", "x"}, 2,
                   "snapvm run has no option --nmae: did you mean --name?; see snapvm run --help");
    expect_refused({"area", "craete", "x"}, 2, "did you mean create?; see snapvm area --help");
}

TEST(CliUsage, ErrorsAreJsonWithJson) {
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"inspect", "/nonexistent", "--json"}, {"run", "--json", "--warp"}}) {
        const CommandResult result = snapvm_command(words);
        const auto json = nlohmann::json::parse(result.err, nullptr, false);
        EXPECT_TRUE(json.is_object() && json.value("error", "").size() > 10) << result.err;
        EXPECT_NE(result.exit_code, 0);
    }
}

TEST(CliUsage, HelpIsFoundInEveryUsualWay) {
    const std::string all = snapvm_command({"--help"}).out;
    for (const char* heading : {"Start machines:", "Control machines:", "Snapshots:", "This host:", "Example:"}) {
        EXPECT_NE(all.find(heading), std::string::npos) << heading << " in " << all;
    }
    EXPECT_EQ(snapvm_command({"help"}).out, all);
    const std::string run = snapvm_command({"run", "--help"}).out;
    EXPECT_EQ(snapvm_command({"help", "run"}).out, run);
    for (const char* part : {"--mem SIZE", "Devices:", "On the host:", "snapvm run --kernel vmlinuz"}) {
        EXPECT_NE(run.find(part), std::string::npos) << part << " in " << run;
    }
    EXPECT_EQ(snapvm_command({"version"}).out, snapvm_command({"--version"}).out);
    EXPECT_EQ(snapvm_command({"help", "ls"}).out, snapvm_command({"ps", "--help"}).out);
}

// Reads the commands' names in the output of --help: two spaces, and the first word of the line.
TEST(CliUsage, EveryCommandHasAnExample) {
    std::istringstream lines(snapvm_command({"--help"}).out);
    unsigned commands = 0;
    bool heading = false;
    for (std::string line; std::getline(lines, line);) {
        heading = line.empty() ? false : heading || (line.ends_with(':') && line != "Options:" && line != "Example:");
        if (!heading || !line.starts_with("  ") || line[2] == ' ') {
            continue;
        }
        const std::string name = line.substr(2, line.find_first_of(" ,", 2) - 2);
        const CommandResult help = snapvm_command({name, "--help"});
        const bool group = name == "area" || name == "disk";
        EXPECT_TRUE(group || help.out.find("Example:\n  snapvm " + name) != std::string::npos) << name << help.out;
        ++commands;
    }
    EXPECT_GE(commands, 22U);
}

TEST(CliUsage, ZeroAndAbsurdSizes) {
    for (const char* memory : {"0", "1", "1M", "3M", "-1", "99999999999T", "2T", "banana", "", "256MM"}) {
        expect_refused({"run", "--kernel", "builtin:ledger", "--mem", memory}, 2, "");
        expect_refused({"size", "--mem", memory}, 2, "");
    }
    for (const char* cpus : {"0", "65", "-1", "4294967296", "two"}) {
        expect_refused({"run", "--kernel", "builtin:ledger", "--cpus", cpus}, 2, "");
    }
    for (const char* timeout : {"0", "never", "99999999999999m", "-1"}) {
        expect_refused({"run", "--kernel", "builtin:ledger", "--timeout", timeout}, 2, "");
    }
    expect_refused({"restore", "/nonexistent", "-n", "0"}, 2, "");
}

TEST(CliUsage, FilesThatAreNotThereOrNotThat) {
    const ScratchFolder scratch;
    std::ofstream(scratch.file("empty")).flush();
    std::ofstream(scratch.file("text")) << "this is no area and no kernel\n";
    expect_refused({"run", "--kernel", scratch.file("missing"), "--run-dir", scratch.path()}, 1,
                   "open kernel " + scratch.file("missing") + ": No such file or directory; check the path");
    expect_refused({"run", "--kernel", scratch.path(), "--run-dir", scratch.path()}, 2, "regular file");
    expect_refused({"run", "--kernel", scratch.file("empty"), "--run-dir", scratch.path()}, 2, "regular file");
    for (const char* command : {"inspect", "verify"}) {
        expect_refused({command, scratch.file("missing"), "--run-dir", scratch.path()}, 1, "missing");
        expect_refused({command, scratch.path(), "--run-dir", scratch.path()}, 1, "");
        expect_refused({command, scratch.file("empty"), "--run-dir", scratch.path()}, 1, "");
        expect_refused({command, scratch.file("text"), "--run-dir", scratch.path()}, 1, "");
    }
    for (const char* command : {"pause", "resume", "stats", "stop"}) {
        expect_refused({command, "nobody", "--run-dir", scratch.path()}, 1, "nobody");
    }
}

TEST(CliArea, SizeCreateInspectVerify) {
    const ScratchFolder scratch;
    const CommandResult size = snapvm_command({"size", "--mem", "64M", "--cpus", "2", "--slots", "2"});
    ASSERT_EQ(size.exit_code, 0) << size.err;
    const std::string area = scratch.file("area");
    const CommandResult created =
        snapvm_command({"area", "create", area, "--mem", "64M", "--cpus", "2", "--slots", "2"});
    ASSERT_EQ(created.exit_code, 0) << created.err;
    struct stat info{};
    ASSERT_EQ(::stat(area.c_str(), &info), 0);
    EXPECT_EQ(std::to_string(info.st_size), size.out.substr(0, size.out.size() - 1));
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    // Empty: inspect says so.
    const CommandResult inspected = snapvm_command({"inspect", area, "--json"});
    EXPECT_EQ(inspected.exit_code, 1);
    EXPECT_TRUE(inspected.out.starts_with("{")) << inspected.out;
    // Not twice without force.
    EXPECT_EQ(snapvm_command({"area", "create", area, "--mem", "64M"}).exit_code, 2);
    EXPECT_EQ(snapvm_command({"area", "create", area, "--mem", "64M", "--force"}).exit_code, 0);
}

// Names with an escape sequence, a line end, and a byte that is no UTF-8.
TEST(CliNames, ReachNoTerminalAndMakeValidJson) {
    const ScratchFolder scratch;
    const std::string area = scratch.file("a\x1b[2J\nb\xff");
    const auto expect_harmless = [](const CommandResult& result, int exit_code) {
        EXPECT_EQ(result.exit_code, exit_code) << result.err;
        for (const std::string& text : {result.out, result.err}) {
            EXPECT_EQ(text.find_first_of("\x1b\xff"), std::string::npos) << text;
        }
    };
    const auto expect_json = [&](std::vector<std::string> arguments, int exit_code) {
        arguments.emplace_back("--json");
        const CommandResult result = snapvm_command(arguments);
        expect_harmless(result, exit_code);
        EXPECT_TRUE(nlohmann::json::accept(result.out)) << result.out;
    };
    expect_json({"area", "create", area, "--mem", "64M"}, 0);
    expect_json({"inspect", area}, 1);
    expect_harmless(snapvm_command({"inspect", area}), 1);
    expect_harmless(snapvm_command({"area", "create", area, "--mem", "64M", "--force"}), 0);
    expect_refused({"verify", area}, 1, R"(a\x1b[2J\x0ab\xff)");
    expect_refused({"inspect", scratch.file("none\x1b[2J\n")}, 1, R"(none\x1b[2J\x0a)");
    expect_refused({"fly\x1b[2J\n"}, 2, R"(fly\x1b[2J\x0a)");
}

TEST(CliUsage, HelpAndVersionAreResults) {
    const CommandResult help = snapvm_command({"--help"});
    EXPECT_EQ(help.exit_code, 0);
    for (const char* command : {"run", "restore", "snapshot", "inspect", "verify", "doctor", "demo"}) {
        EXPECT_NE(help.out.find(command), std::string::npos) << command;
    }
    EXPECT_EQ(snapvm_command({"--version"}).exit_code, 0);
}

}  // namespace
}  // namespace snapvm::test
