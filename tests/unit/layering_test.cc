// SPDX-License-Identifier: Apache-2.0
// A module's include path decides what it may include, so an include against the layers does not
// build. The test uses the commands that build the modules.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/support/paths.h"
#include "tests/support/scratch_folder.h"

namespace {

namespace fs = std::filesystem;

const fs::path kSource = snapvm::test::source_folder();
const fs::path kBuild = snapvm::test::build_folder();

struct Command {
    std::string folder;
    std::string text;  ///< without its output file
};

/// The command that compiles the first source file of each module, by the module's name.
std::map<std::string, Command> module_commands() {
    std::ifstream in(kBuild / "compile_commands.json");
    const auto entries = nlohmann::json::parse(in, nullptr, false);
    const std::regex module(R"(^(.*) -o \S*CMakeFiles/snapvm_(\w+)\.dir/.*$)");
    std::map<std::string, Command> result;
    for (const auto& entry : entries) {
        const std::string command = entry.value("command", "");
        std::smatch match;
        if (!entry.value("file", "").ends_with("cmake_pch.hxx.cxx") && std::regex_match(command, match, module)) {
            result.try_emplace(match[2], Command{entry.value("directory", ""), match[1]});
        }
    }
    return result;
}

/// Returns the folder in which a module's headers are, from its include root; empty for a name that
/// is no module.
fs::path folder_of(const std::string& module) {
    const fs::path root = kBuild / "include-roots" / module;
    std::error_code none;
    for (const auto& entry : fs::recursive_directory_iterator(root, none)) {
        if (entry.is_symlink() && entry.is_directory()) {
            return entry.path().lexically_relative(root);
        }
    }
    return {};
}

/// The modules and what each depends on, as ARCHITECTURE.md's table of layers says.
std::map<std::string, std::set<std::string>> table_of_layers() {
    const auto names = [](const std::string& cell) {
        const std::regex name(R"(\w+)");
        const std::string plain = std::regex_replace(cell, std::regex(R"(\([^)]*\))"), "");
        return std::set<std::string>(std::sregex_token_iterator(plain.begin(), plain.end(), name), {});
    };
    std::ifstream in(kSource / "ARCHITECTURE.md");
    const std::regex row(R"(^\|[^|]*\| (`[^|]*) \| ([^|]*) \|$)");
    std::map<std::string, std::set<std::string>> result;
    std::smatch match;
    for (std::string line; std::getline(in, line) && line != "## Rooms";) {
        if (std::regex_match(line, match, row)) {
            for (const std::string& module : names(match[1])) {
                result[module] = match[2] == "nothing" ? std::set<std::string>{} : names(match[2]);
            }
        }
    }
    return result;
}

/// Adds to `seen` a module and all that it depends on.
void follow(const std::string& module, const std::map<std::string, std::set<std::string>>& table,
            std::set<std::string>& seen) {
    if (seen.insert(module).second) {
        for (const std::string& next : table.at(module)) {
            follow(next, table, seen);
        }
    }
}

/// Returns what the compiler says of a text that is compiled as a module's source file.
std::string compiler_says(const Command& command, const std::string& text) {
    const snapvm::test::ScratchFolder scratch;
    std::ofstream(scratch.file("text.cc")) << text;
    const std::string said = scratch.file("said");
    const int status = std::system(("cd '" + command.folder + "' && " + command.text + " -fsyntax-only -x c++ '" +
                                    scratch.file("text.cc") + "' 2>'" + said + "'")
                                       .c_str());
    std::ifstream in(said);
    std::string result((std::istreambuf_iterator<char>(in)), {});
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : "it fails: " + result;
}

/// Returns the headers in the folders of modules, and in the folders below them.
std::set<std::string> headers_in(const std::set<fs::path>& folders) {
    std::set<std::string> result;
    for (const fs::path& folder : folders) {
        for (const auto& entry : fs::recursive_directory_iterator(kSource / folder)) {
            if (entry.path().extension() == ".h") {
                result.insert(entry.path().lexically_relative(kSource).string());
            }
        }
    }
    return result;
}

TEST(Layering, AModuleSeesWhatTheTableOfLayersSaysAndNothingElse) {
    const auto table = table_of_layers();
    const auto commands = module_commands();
    ASSERT_GT(commands.size(), 20U);
    std::set<fs::path> folders;
    for (const auto& [module, depends] : table) {
        ASSERT_FALSE(folder_of(module).empty()) << module << " is in the table of layers, and no module";
        folders.insert(folder_of(module));
    }
    for (const char* module : {"device_base", "platform", "snapshot_source"}) {
        EXPECT_FALSE(commands.contains(module)) << module << " has sources now, and is checked like others";
    }
    EXPECT_EQ(commands.size() + 3, table.size()) << "only modules without sources have no command";
    const std::set<std::string> headers = headers_in(folders);
    for (const auto& [module, command] : commands) {
        ASSERT_TRUE(table.contains(module)) << module << " is not in ARCHITECTURE.md's table of layers";
        std::set<std::string> modules;
        follow(module, table, modules);
        std::set<fs::path> open;
        for (const std::string& name : modules) {
            open.insert(folder_of(name));
        }
        const std::set<std::string> seen = headers_in(open);
        std::string text;
        for (const std::string& header : headers) {
            text += seen.contains(header)
                        ? "#if !__has_include(\"" + header + "\")\n#error " + header + " is not seen\n#endif\n"
                        : "#if __has_include(\"" + header + "\")\n#error " + header + " is seen\n#endif\n";
        }
        EXPECT_EQ(compiler_says(command, text), "") << module;
        std::printf("%-20s sees %2zu modules; %3zu headers of others do not compile\n", module.c_str(), modules.size(),
                    headers.size() - seen.size());
    }
}

// Shows that a header that is not seen fails to compile, and that one that is seen compiles.
TEST(Layering, AnIncludeAgainstTheArrowsDoesNotBuild) {
    const auto commands = module_commands();
    const auto include = [&](const char* module, const std::string& header) {
        return compiler_says(commands.at(module), "#include \"" + header + "\"\n");
    };
    const auto not_found = [](const std::string& said) {  // as GCC and clang say it
        return said.find("No such file") != std::string::npos || said.find("file not found") != std::string::npos;
    };
    EXPECT_TRUE(not_found(include("snapshot_format", "vmm/kvm/system.h")));
    EXPECT_TRUE(not_found(include("platform_devices", "vmm/machine/machine.h")));
    EXPECT_TRUE(not_found(include("kvm", "vmm/vcpu/vcpu_set.h")));
    EXPECT_TRUE(not_found(include("base", "snapvm/machine.h")));
    EXPECT_TRUE(not_found(include("control", "snapvm/machine.h")));
    EXPECT_EQ(include("base", "snapvm/error.h"), "");
    EXPECT_EQ(include("embed", "snapvm/machine.h"), "");
    EXPECT_EQ(include("snapshot_format", "vmm/config/machine_config.h"), "");
    EXPECT_EQ(include("platform_devices", "devices/base/device.h"), "");
    EXPECT_EQ(include("disk", "vmm/io/engine.h"), "");
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

// So they cannot change with the inside, and an embedder needs the headers of no library.
TEST(Layering, PublicHeadersIncludeEachOtherAndTheStandardLibraryOnly) {
    const std::regex include(R"(^\s*#\s*include\s*(.*))");
    const std::regex allowed(R"(<(snapvm/)?[a-z_]+(\.h)?>)");
    std::size_t includes = 0;
    for (const auto& entry : fs::directory_iterator(kSource / "vmm/include/snapvm")) {
        std::ifstream in(entry.path());
        std::smatch match;
        for (std::string line; std::getline(in, line);) {
            EXPECT_FALSE(line.starts_with("#define")) << entry.path() << ": " << line;
            if (!std::regex_match(line, match, include)) {
                continue;
            }
            ++includes;
            const std::string header = match[1];
            EXPECT_TRUE(std::regex_match(header, allowed)) << entry.path() << ": " << line;
            // Headers of the C++ standard library have no suffix, those of C and Linux do.
            EXPECT_EQ(header.starts_with("<snapvm/"), header.ends_with(".h>")) << entry.path() << ": " << line;
        }
    }
    EXPECT_GT(includes, 20U);
}

}  // namespace
