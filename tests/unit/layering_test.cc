// SPDX-License-Identifier: Apache-2.0
// The arrows of the design: what a module may include is decided by its include path, so an include against them does not build. Tried
// with the very commands that build the modules.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/support/paths.h"

namespace {

namespace fs = std::filesystem;

const fs::path kSource = snapvm::test::source_folder();
const fs::path kBuild = snapvm::test::build_folder();

/// Whether a file that includes `header` compiles with the command that compiles `like`; -1 when there is no such command.
int compiles(const std::string& like, const std::string& header) {
    std::ifstream in(kBuild / "compile_commands.json");
    const auto commands = nlohmann::json::parse(in, nullptr, false);
    for (const auto& entry : commands) {
        if (!entry.is_object() || entry.value("file", "") != (kSource / like).string()) {
            continue;
        }
        std::string command = entry.value("command", "");
        command = command.substr(0, command.rfind(" -o "));
        const std::string line = "cd '" + entry.value("directory", "") + "' && printf '#include \"%s\"\\n' '" + header + "' | " +
                                 command + " -fsyntax-only -x c++ - 2>/dev/null";
        const int status = std::system(line.c_str());
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 1 : 0;
    }
    return -1;
}

TEST(Layering, AnIncludeAgainstTheArrowsDoesNotBuild) {
    const std::pair<const char*, const char*> forbidden[] = {
        {"devices/reset/reset.cc", "vmm/kvm/system.h"},   {"devices/reset/reset.cc", "vmm/machine/machine.h"},
        {"devices/reset/reset.cc", "snapshot/writer.h"},  {"snapshot/layout.cc", "vmm/kvm/system.h"},
        {"snapshot/layout.cc", "devices/registry.h"},     {"snapshot/layout.cc", "vmm/machine/machine.h"},
        {"vmm/memory/block.cc", "vmm/kvm/vm.h"},          {"vmm/bus/bus.cc", "vmm/memory/block.h"},
        {"vmm/boot/acpi.cc", "devices/device.h"},         {"vmm/kvm/vm.cc", "vmm/vcpu/vcpu_set.h"},
        {"vmm/base/error.cc", "vmm/memory/gpa.h"},        {"vmm/crash/capture.cc", "vmm/machine/console.h"},
        {"vmm/emulate/decoder.cc", "vmm/crash/report.h"},
    };
    for (const auto& [file, header] : forbidden) {
        EXPECT_EQ(compiles(file, header), 0) << file << " with " << header;
    }
}

// So that the test above is not green for another reason.
TEST(Layering, AnIncludeAlongTheArrowsBuilds) {
    EXPECT_EQ(compiles("devices/reset/reset.cc", "devices/device.h"), 1);
    EXPECT_EQ(compiles("snapshot/layout.cc", "vmm/machine/config.h"), 1);
    EXPECT_EQ(compiles("vmm/base/error.cc", "vmm/base/fd.h"), 1);
    EXPECT_EQ(compiles("vmm/crash/capture.cc", "vmm/emulate/address_space.h"), 1);
}

TEST(Layering, DevicesAndSnapshotsKnowNothingOfKvm) {
    const std::regex include(R"(^\s*#\s*include\s*[<"](.*)[>"].*)");
    std::size_t files = 0;
    for (const char* folder : {"devices", "snapshot"}) {
        for (const auto& entry : fs::recursive_directory_iterator(kSource / folder)) {
            const std::string extension = entry.path().extension();
            if (extension != ".h" && extension != ".cc") {
                continue;
            }
            ++files;
            std::ifstream in(entry.path());
            std::smatch match;
            for (std::string line; std::getline(in, line);) {
                if (std::regex_match(line, match, include)) {
                    const std::string header = match[1];
                    EXPECT_EQ(header.find("kvm"), std::string::npos) << entry.path() << ": " << line;
                    EXPECT_EQ(header.find("vmm/vcpu"), std::string::npos) << entry.path() << ": " << line;
                }
            }
        }
    }
    EXPECT_GT(files, 20U);
}

}  // namespace
