// SPDX-License-Identifier: Apache-2.0
// Uses ACPICA's compiler as a check: the tables in a loaded guest's memory decompile, and compiling
// that source again gives the same tables.
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tests/support/command.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/vmm/boot/acpi_reader.h"
#include "tests/unit/vmm/boot/elf_builder.h"
#include "vmm/boot/loader.h"
#include "vmm/config/machine_config.h"

namespace snapvm {
namespace {

using test::ok;

GuestMemory loaded_guest(std::uint32_t cpus, std::uint32_t virtio_devices) {
    MachineConfig config;
    config.memory_bytes = 16ULL << 20;
    std::vector<MemoryBlock> blocks;
    for (const BlockSpec& spec : config.blocks()) {
        blocks.push_back(*MemoryBlock::anonymous(spec, PagePolicy::small_pages));
    }
    GuestMemory memory = *GuestMemory::of(std::move(blocks));
    const std::vector<std::byte> kernel = test::ElfFile().bytes();
    EXPECT_TRUE(ok(load_guest(memory, {.kernel = kernel, .cpus = cpus, .virtio_devices = virtio_devices})));
    return memory;
}

std::string read_all(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

// A compiler writes its own name and version into a table, and so another checksum (5.2.6).
std::string without_the_compilers_name(std::string table) {
    for (const auto& [at, size] : {std::pair{9, 1}, {28, 4}, {32, 4}}) {
        if (table.size() >= 36) {
            table.replace(static_cast<std::size_t>(at), static_cast<std::size_t>(size), static_cast<std::size_t>(size),
                          '?');
        }
    }
    return table;
}

struct Size {
    std::uint32_t cpus;
    std::uint32_t virtio_devices;
};

class Iasl : public ::testing::TestWithParam<Size> {
protected:
    void SetUp() override {
        if (std::system("iasl -v >/dev/null 2>&1") != 0) {
            GTEST_SKIP() << "iasl is not installed (Debian's acpica-tools)";
        }
    }
    /// Runs iasl in the scratch folder; its report, which must count no error, warning or remark if
    /// it counts any.
    std::string iasl(const std::string& arguments) {
        const std::string log = folder_.file("log");
        EXPECT_EQ(std::system(("cd " + folder_.path() + " && iasl " + arguments + " >log 2>&1").c_str()), 0)
            << read_all(log);
        return read_all(log);
    }
    test::ScratchFolder folder_;
};

TEST_P(Iasl, DecompilesAndRecompilesEachTableToTheSameBytes) {
    const GuestMemory memory = loaded_guest(GetParam().cpus, GetParam().virtio_devices);
    const auto block = memory.span(platform::kFirmwareBase, platform::kFirmwareSize);
    ASSERT_TRUE(ok(block));
    const auto tables = test::all_tables(*block);
    ASSERT_EQ(tables.size(), 4U);
    for (const auto& [signature, bytes] : tables) {
        std::ofstream(folder_.file(signature + ".dat"), std::ios::binary) << test::text(bytes, 0, bytes.size());
        const std::string decompiled = iasl("-d " + signature + ".dat");
        for (const char* trouble : {"Warning", "Error", "rror:", "Could not", "nvalid"}) {
            EXPECT_EQ(decompiled.find(trouble), std::string::npos) << decompiled;
        }
        // A name of its own, so that nothing but the compiler can have written it.
        const std::string compiled = iasl("-p again-" + signature + " " + signature + ".dsl");
        EXPECT_NE(compiled.find("0 Errors, 0 Warnings, 0 Remarks"), std::string::npos) << compiled;
        EXPECT_EQ(without_the_compilers_name(read_all(folder_.file("again-" + signature + ".aml"))),
                  without_the_compilers_name(test::text(bytes, 0, bytes.size())))
            << signature;
    }
}

INSTANTIATE_TEST_SUITE_P(Machines, Iasl, ::testing::Values(Size{1, 0}, Size{2, 3}, Size{platform::kMaxCpus, 16}),
                         [](const auto& test) {
                             return std::to_string(test.param.cpus) + "_" + std::to_string(test.param.virtio_devices);
                         });

}  // namespace
}  // namespace snapvm
