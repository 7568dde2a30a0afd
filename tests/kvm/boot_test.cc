// SPDX-License-Identifier: Apache-2.0
// Boot forms: PVH and the Linux 64-bit entry, one to eight vCPUs by INIT and SIPI, command line and
// initrds handed over.
#include "guest-images/ledger/image.h"
#include "tests/kvm/rig.h"
#include "tests/support/bzimage_builder.h"
#include "vmm/platform/platform.h"

// RSI: boot_params. Adds up the initrd's bytes, then the command line's, and exits with that.
SNAPVM_TINY_CODE(sum_boot_data, R"(
    xor %eax, %eax
    mov 0x218(%rsi), %edi
    mov 0x21c(%rsi), %ecx
1:  movzbl (%rdi), %edx
    add %edx, %eax
    inc %edi
    dec %ecx
    jnz 1b
    mov 0x228(%rsi), %edi
2:  movzbl (%rdi), %edx
    add %edx, %eax
    inc %edi
    test %edx, %edx
    jnz 2b
    mov $0x5f4, %edx
    out %eax, %dx
3:  jmp 3b
)");

namespace snapvm::test {
namespace {

struct Form {
    bool linux64;
    std::uint32_t cpus;
};

class BootForms : public KvmTest, public ::testing::WithParamInterface<Form> {};

TEST_P(BootForms, LedgerRunsAndEndsSoundly) {
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = GetParam().cpus, .cmdline = "ws=1M rate=0 quiet=0", .linux64 = GetParam().linux64});
    const LedgerLine line = verify_ledger(*machine);
    EXPECT_TRUE(line.ok) << line.text;
    EXPECT_EQ(line.pages, 256U) << "the command line did not arrive";
    const auto root = need(machine->memory().load<ledger::Root>(Gpa{ledger::kRootAddress}));
    EXPECT_EQ(root.shards, GetParam().cpus);
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Forms, BootForms,
                         ::testing::Values(Form{false, 1}, Form{true, 1}, Form{false, 2}, Form{true, 2}, Form{false, 4},
                                           Form{true, 4}, Form{false, 8}),
                         [](const auto& test) {
                             return (test.param.linux64 ? "Linux64With" : "PvhWith") + std::to_string(test.param.cpus);
                         });

TEST_F(KvmTest, AKernelInABzImageBoots) {
    for (const auto pack : {gzip, xz, zstd, lz4}) {
        const FileBytes packed = bzimage(pack(ledger_image()));
        MachineConfig config;
        config.memory_bytes = 16ULL << 20;
        config.cmdline = "ws=1M rate=0";
        const std::unique_ptr<Machine> machine = need(
            Machine::create(system(), config, {.kernel = packed, .initrds = {}, .cmdline = config.cmdline, .cpus = 1}));
        need(machine->resume());
        ASSERT_TRUE(machine->wait_ready(soon()));
        expect_sound_end(*machine);
    }
}

TEST_F(KvmTest, LinuxEntryHandsOverInitrdAndCommandLine) {
    const TinyGuest guest{.code = sum_boot_data};
    const std::vector<std::byte> elf = tiny_elf(guest);
    const std::vector<std::byte> initrd(5000, std::byte{3});
    const std::vector<std::byte> second(10, std::byte{7});
    MachineConfig config;
    config.memory_bytes = tiny::kMemory;
    config.cmdline = "abc";
    const BootSource source{
        .kernel = elf, .initrds = {initrd, second}, .cmdline = config.cmdline, .cpus = 1, .force_linux64 = true};
    const std::unique_ptr<Machine> machine = need(Machine::create(system(), config, source));
    write_tiny_tables(machine->memory(), guest);
    need(machine->resume());
    EXPECT_EQ(wait_end(*machine).exit_code(), (5000 * 3 + 10 * 7 + 'a' + 'b' + 'c') & 0xFF);
}

TEST_F(KvmTest, PvhStartInfoListsModules) {
    const std::vector<std::byte> initrd(9000, std::byte{0x5A});
    MachineConfig config;
    config.memory_bytes = 16ULL << 20;
    config.cmdline = "ws=1M";
    const BootSource source{
        .kernel = ledger_image(), .initrds = {initrd}, .cmdline = config.cmdline, .cpus = 1, .force_pvh = true};
    const std::unique_ptr<Machine> machine = need(Machine::create(system(), config, source));
    const GuestMemory& memory = machine->memory();
    // hvm_start_info: nr_modules at 12, modlist_paddr at 16; a module: address, size.
    EXPECT_EQ(need(memory.load<std::uint32_t>(platform::kPvhStartInfo + 12)), 1U);
    const Gpa list{need(memory.load<std::uint64_t>(platform::kPvhStartInfo + 16))};
    const Gpa module{need(memory.load<std::uint64_t>(list))};
    EXPECT_EQ(need(memory.load<std::uint64_t>(list + 8)), initrd.size());
    std::vector<std::byte> there(initrd.size());
    need(memory.read(module, there));
    EXPECT_EQ(there, initrd);
    need(machine->resume());
    ASSERT_TRUE(machine->wait_ready(soon()));
    expect_sound_end(*machine);
}

}  // namespace
}  // namespace snapvm::test
