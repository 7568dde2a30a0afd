// SPDX-License-Identifier: Apache-2.0
// What a guest finds in its memory at its first instruction (PLATFORM.md, "Boot"): written, then
// read back as the guest would.
#include "vmm/boot/loader.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include <asm/bootparam.h>

#include "tests/support/result_matchers.h"
#include "tests/unit/vmm/boot/elf_builder.h"
#include "vmm/boot/acpi.h"
#include "vmm/config/machine_config.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

using test::ElfFile;
using test::fails;
using test::ok;

constexpr std::uint64_t kMiB = 1ULL << 20;

GuestMemory memory_of(std::uint64_t bytes) {
    MachineConfig config;
    config.memory_bytes = bytes;
    std::vector<MemoryBlock> blocks;
    for (const BlockSpec& spec : config.blocks()) {
        blocks.push_back(*MemoryBlock::anonymous(spec, PagePolicy::small_pages));
    }
    return *GuestMemory::of(std::move(blocks));
}

std::vector<std::byte> filled(std::size_t size, int value) {
    return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

// xen/include/public/arch-x86/hvm/start_info.h
struct StartInfo {
    std::uint32_t magic, version, flags, nr_modules;
    std::uint64_t modlist, cmdline, rsdp, memmap;
    std::uint32_t memmap_entries, reserved;
};
struct Module {
    std::uint64_t at, size, cmdline, reserved;
};
struct MapEntry {
    std::uint64_t base, size;
    std::uint32_t type, reserved;
};

class LoaderTest : public ::testing::Test {
protected:
    Result<BootEntry> load(const ElfFile& file, BootSource source = {}) {
        kernel_ = file.bytes();
        source.kernel = kernel_;
        return load_guest(memory_, source);
    }
    [[nodiscard]] std::string text_at(Gpa at, std::size_t size) {
        std::string text(size, '?');
        EXPECT_TRUE(ok(memory_.read(at, std::as_writable_bytes(std::span(text)))));
        return text;
    }
    template <class T>
    T at(std::uint64_t address) {
        return memory_.load<T>(Gpa{address}).value();
    }

    GuestMemory memory_ = memory_of(16 * kMiB);
    std::vector<std::byte> kernel_;
};

TEST_F(LoaderTest, SegmentsLieWhereTheyWantTo) {
    ASSERT_TRUE(ok(load(ElfFile())));
    EXPECT_TRUE(std::ranges::equal(memory_.span(Gpa{ElfFile::kLoadAt}, 16).value(), std::span(kernel_).last(16)));
    EXPECT_EQ(at<std::uint64_t>(ElfFile::kLoadAt + 16), 0U);
}

TEST_F(LoaderTest, PvhIsTakenWhenThereIsANote) {
    const auto entry = load(ElfFile());
    ASSERT_TRUE(ok(entry));
    EXPECT_EQ(entry->mode, BootEntry::Mode::pvh);
    EXPECT_EQ(entry->rip, ElfFile::kLoadAt);
    EXPECT_EQ(entry->argument, platform::kPvhStartInfo);
}

TEST_F(LoaderTest, Linux64IsTakenWhenThereIsNoneOrWhenAsked) {
    const auto asked = load(ElfFile(), {.force_linux64 = true});
    ASSERT_TRUE(ok(asked));
    EXPECT_EQ(asked->mode, BootEntry::Mode::linux64);
    EXPECT_EQ(asked->rip, ElfFile::kLoadAt + 4);
    EXPECT_EQ(asked->argument, platform::kBootParams);
    ElfFile without;
    without.note.header.n_type = 0;
    const auto none = load(without);
    ASSERT_TRUE(ok(none));
    EXPECT_EQ(none->mode, BootEntry::Mode::linux64);
    EXPECT_TRUE(fails(load(without, {.force_pvh = true}), ErrorKind::usage, "no PVH note"));
}

TEST_F(LoaderTest, KernelThatDoesNotFitIsRefused) {
    for (const auto& [at, size] : {std::pair{16 * kMiB - 4096, std::uint64_t{8192}},
                                   {16 * kMiB, 16},
                                   {0xFFFF'FFFF'0000, 16},
                                   {0xC0000000, 16},
                                   {kMiB, 1ULL << 40}}) {
        ElfFile file;
        file.programs[1].p_paddr = at;
        file.programs[1].p_memsz = size;
        file.header.e_entry = file.note.entry = static_cast<std::uint32_t>(at);
        file.header.e_entry = at;
        EXPECT_TRUE(fails(load(file, {.force_linux64 = true}), ErrorKind::invalid)) << std::hex << at;
    }
    ElfFile exact;
    exact.programs[1].p_paddr = 16 * kMiB - 4096;
    exact.note.entry = 16 * kMiB - 4096;
    EXPECT_TRUE(ok(load(exact)));
}

TEST_F(LoaderTest, KernelBelowOneMiBIsRefused) {
    for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{0x7000}, kMiB - 4096, kMiB - 1}) {
        ElfFile file;
        file.programs[1].p_paddr = at;
        file.note.entry = static_cast<std::uint32_t>(at);
        EXPECT_TRUE(fails(load(file), ErrorKind::invalid, "below 1 MiB")) << at;
    }
    ElfFile lowest;
    lowest.programs[1].p_paddr = kMiB;
    lowest.note.entry = kMiB;
    EXPECT_TRUE(ok(load(lowest)));
}

// They are memory too, but not the kernel's.
TEST_F(LoaderTest, KernelOverFirmwareTablesOrDeviceMemoryIsRefused) {
    for (const Gpa at : {platform::kFirmwareBase, platform::kFirmwareBase + 4096, platform::kVmGenIdBase}) {
        ElfFile file;
        file.programs[1].p_paddr = at.value;
        file.note.entry = static_cast<std::uint32_t>(at.value);
        EXPECT_TRUE(fails(load(file), ErrorKind::invalid, "firmware tables")) << std::hex << at.value;
    }
}

TEST(Loader, MemoryWithoutAFirstMebibyteIsRefused) {
    for (const std::uint64_t low : {std::uint64_t{0}, std::uint64_t{0x80000}, kMiB}) {
        std::vector<MemoryBlock> blocks;
        if (low > 0) {
            blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, low}, PagePolicy::small_pages));
        }
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_high, Gpa{kMiB}, 4 * kMiB}, PagePolicy::small_pages));
        GuestMemory memory = *GuestMemory::of(std::move(blocks));
        const auto kernel = ElfFile().bytes();
        BootSource source;
        source.kernel = kernel;
        EXPECT_TRUE(fails(load_guest(memory, source), ErrorKind::usage, "more than 1 MiB")) << low;
    }
}

TEST_F(LoaderTest, EntryOutsideOfWhatIsLoadedIsRefused) {
    for (const std::uint64_t entry :
         {std::uint64_t{0}, ElfFile::kLoadAt - 1, ElfFile::kLoadAt + 4096, std::uint64_t{0xFFFFFFFF}}) {
        ElfFile file;
        file.note.entry = static_cast<std::uint32_t>(entry);
        EXPECT_TRUE(fails(load(file), ErrorKind::invalid, "entry")) << entry;
        file = {};
        file.header.e_entry = entry;
        EXPECT_TRUE(fails(load(file, {.force_linux64 = true}), ErrorKind::invalid, "entry")) << entry;
        EXPECT_TRUE(ok(load(file)));  // the one that is not used may be anything
    }
}

TEST_F(LoaderTest, KernelAboveTheHoleNeedsNoRoomBelowIt) {
    memory_ = memory_of((3ULL << 30) + 4 * kMiB);
    ElfFile file;
    file.programs.push_back(file.programs[1]);
    file.place();
    file.programs[2].p_paddr = 1ULL << 32;
    EXPECT_TRUE(ok(load(file)));
    EXPECT_TRUE(std::ranges::equal(memory_.span(Gpa{1ULL << 32}, 16).value(), std::span(kernel_).last(16)));
    const auto initrd = filled(4096, 5);
    EXPECT_TRUE(ok(load(file, {.initrds = {initrd}})));
}

TEST_F(LoaderTest, CommandLineEndsInANul) {
    ASSERT_TRUE(ok(memory_.write(platform::kCommandLine, filled(64, 'z'))));
    ASSERT_TRUE(ok(load(ElfFile(), {.cmdline = "a=b c"})));
    EXPECT_EQ(text_at(platform::kCommandLine, 7), std::string("a=b c\0z", 7));
    ASSERT_TRUE(ok(load(ElfFile())));
    EXPECT_EQ(text_at(platform::kCommandLine, 1), std::string("\0", 1));
}

TEST_F(LoaderTest, CommandLineHasALimit) {
    EXPECT_TRUE(ok(load(ElfFile(), {.cmdline = std::string(platform::kCommandLineLimit - 1, 'x')})));
    EXPECT_TRUE(fails(load(ElfFile(), {.cmdline = std::string(platform::kCommandLineLimit, 'x')}), ErrorKind::usage,
                      "too long"));
}

TEST_F(LoaderTest, AbsurdNumbersOfVcpusAreRefused) {
    EXPECT_TRUE(fails(load(ElfFile(), {.cpus = 0}), ErrorKind::usage));
    EXPECT_TRUE(fails(load(ElfFile(), {.cpus = platform::kMaxCpus + 1}), ErrorKind::usage));
    EXPECT_TRUE(fails(load(ElfFile(), {.cpus = ~0U}), ErrorKind::usage));
}

TEST_F(LoaderTest, PvhStartInfoLeadsToEverything) {
    const auto first = filled(5000, 1);
    const auto second = filled(4096, 2);
    const auto third = filled(1, 3);
    ASSERT_TRUE(ok(load(ElfFile(), {.initrds = {first, second, third}, .cmdline = "x", .cpus = 2})));
    const auto info = at<StartInfo>(platform::kPvhStartInfo.value);
    EXPECT_EQ(info.magic, 0x336EC578U);
    EXPECT_EQ(info.version, 1U);
    EXPECT_EQ(info.flags, 0U);
    EXPECT_EQ(text_at(Gpa{info.cmdline}, 2), std::string("x\0", 2));
    EXPECT_EQ(text_at(Gpa{info.rsdp}, 8), "RSD PTR ");
    const auto tables = acpi_tables({.cpus = 2, .virtio_devices = 0}).value();
    EXPECT_TRUE(std::ranges::equal(memory_.span(Gpa{info.rsdp}, tables.size()).value(), tables));

    ASSERT_EQ(info.nr_modules, 3U);
    std::uint64_t end = 0;
    for (const auto& [index, bytes] : {std::pair{0, &first}, {1, &second}, {2, &third}}) {
        const auto module = at<Module>(info.modlist + static_cast<std::uint64_t>(index) * sizeof(Module));
        EXPECT_EQ(module.size, bytes->size());
        EXPECT_TRUE(is_page_aligned(module.at));
        EXPECT_GE(module.at, end);
        EXPECT_TRUE(std::ranges::equal(memory_.span(Gpa{module.at}, module.size).value(), *bytes));
        EXPECT_EQ(module.cmdline, 0U);
        end = module.at + module.size;
    }
    EXPECT_LE(end, 16 * kMiB);

    ASSERT_EQ(info.memmap_entries, 5U);
    const auto last_of_ram = at<MapEntry>(info.memmap + 2 * sizeof(MapEntry));
    EXPECT_EQ(last_of_ram.base, kMiB);
    EXPECT_EQ(last_of_ram.size, 15 * kMiB);
    EXPECT_EQ(last_of_ram.type, 1U);
}

TEST_F(LoaderTest, WithoutInitrdsTheModuleListIsNone) {
    ASSERT_TRUE(ok(load(ElfFile())));
    const auto info = at<StartInfo>(platform::kPvhStartInfo.value);
    EXPECT_EQ(info.nr_modules, 0U);
    EXPECT_EQ(info.modlist, 0U);
}

TEST_F(LoaderTest, BootParametersSayTheSameToLinux) {
    const auto first = filled(5000, 1);
    const auto second = filled(100, 2);
    ASSERT_TRUE(ok(load(ElfFile(), {.initrds = {first, second}, .cmdline = "root=/dev/vda", .force_linux64 = true})));
    // Its fields are packed, hence the copies (+).
    const auto params = at<boot_params>(platform::kBootParams.value);
    EXPECT_EQ(+params.hdr.header, 0x53726448U);
    EXPECT_EQ(+params.hdr.boot_flag, 0xAA55);
    EXPECT_EQ(+params.hdr.type_of_loader, 0xFF);
    EXPECT_EQ(+params.hdr.cmd_line_ptr, platform::kCommandLine.value);
    EXPECT_EQ(+params.hdr.cmdline_size, 13U);
    EXPECT_EQ(+params.acpi_rsdp_addr, platform::kFirmwareBase.value);
    // One initrd that holds both, each on a page boundary.
    EXPECT_EQ(+params.hdr.ramdisk_size, 8192U + 100U);
    const std::uint64_t ramdisk = params.hdr.ramdisk_image;
    EXPECT_TRUE(std::ranges::equal(memory_.span(Gpa{ramdisk}, 5000).value(), first));
    EXPECT_TRUE(std::ranges::equal(memory_.span(Gpa{ramdisk + 8192}, 100).value(), second));
    EXPECT_EQ(at<std::uint8_t>(ramdisk + 5000), 0);
    ASSERT_EQ(+params.e820_entries, 5);
    EXPECT_EQ(+params.e820_table[0].addr, 0U);
    EXPECT_EQ(+params.e820_table[0].size, 0x9FC00U);
    EXPECT_EQ(+params.e820_table[1].type, 2U);
    EXPECT_EQ(+params.e820_table[3].type, 3U);
}

// Each machine's is its own.
TEST_F(LoaderTest, LinuxGetsASeed) {
    std::set<std::uint64_t> words;
    for (int load_number = 0; load_number < 2; ++load_number) {
        ASSERT_TRUE(ok(load(ElfFile(), {.force_linux64 = true})));
        const std::uint64_t at_seed = at<boot_params>(platform::kBootParams.value).hdr.setup_data;
        EXPECT_EQ(at<std::uint64_t>(at_seed), 0U) << "no other follows";
        EXPECT_EQ(at<std::uint32_t>(at_seed + 8), 9U) << "SETUP_RNG_SEED";
        ASSERT_EQ(at<std::uint32_t>(at_seed + 12), 64U);
        for (std::uint64_t i = 0; i < 64; i += 8) {
            EXPECT_TRUE(words.insert(at<std::uint64_t>(at_seed + sizeof(setup_data) + i)).second);
        }
    }
}

TEST_F(LoaderTest, PageTablesMapFourGiBOneToOne) {
    ASSERT_TRUE(ok(load(ElfFile(), {.force_linux64 = true})));
    for (const std::uint64_t address :
         {std::uint64_t{0}, std::uint64_t{0x1FFFFF}, std::uint64_t{0x200000}, std::uint64_t{0x12345678},
          std::uint64_t{0xC0000000}, std::uint64_t{0xFFFFFFFF}}) {
        std::uint64_t table = platform::kPageTables.value;
        for (const int shift : {39, 30}) {
            const auto entry = at<std::uint64_t>(table + (address >> shift & 511) * 8);
            ASSERT_EQ(entry & 3, 3U);
            table = entry & ~0xFFFULL;
        }
        const auto leaf = at<std::uint64_t>(table + (address >> 21 & 511) * 8);
        EXPECT_EQ(leaf & 0x83, 0x83U);
        EXPECT_EQ((leaf & ~0x1FFFFFULL) | (address & 0x1FFFFF), address);
    }
    EXPECT_EQ(at<std::uint64_t>(platform::kPageTables.value + 8), 0U);
}

TEST_F(LoaderTest, GdtHasTheSelectorsOfTheBootProtocol) {
    ASSERT_TRUE(ok(load(ElfFile(), {.force_linux64 = true})));
    EXPECT_EQ(at<std::uint64_t>(platform::kGdt.value), 0U);
    EXPECT_EQ(at<std::uint64_t>(platform::kGdt.value + 0x10), 0x00AF9B000000FFFFU);  // 64-bit code
    EXPECT_EQ(at<std::uint64_t>(platform::kGdt.value + 0x18), 0x00CF93000000FFFFU);
    ASSERT_TRUE(ok(load(ElfFile())));
    EXPECT_EQ(at<std::uint64_t>(platform::kGdt.value + 0x10), 0x00CF9B000000FFFFU);  // 32-bit code
}

TEST_F(LoaderTest, InitrdsThatDoNotFitAreRefused) {
    const std::uint64_t kernel_end = ElfFile::kLoadAt + 4096;
    const auto exact = filled(16 * kMiB - kernel_end, 1);
    ASSERT_TRUE(ok(load(ElfFile(), {.initrds = {exact}})));
    EXPECT_EQ(at<std::uint8_t>(kernel_end), 1);
    EXPECT_TRUE(std::ranges::equal(memory_.span(Gpa{ElfFile::kLoadAt}, 16).value(), std::span(kernel_).last(16)));
    const auto more = filled(16 * kMiB - kernel_end + 1, 1);
    EXPECT_TRUE(fails(load(ElfFile(), {.initrds = {more}}), ErrorKind::usage, "do not fit"));
    const auto huge = filled(17 * kMiB, 1);
    EXPECT_TRUE(fails(load(ElfFile(), {.initrds = {huge}}), ErrorKind::usage, "do not fit"));
    const auto half = filled(8 * kMiB, 1);
    EXPECT_TRUE(fails(load(ElfFile(), {.initrds = {half, half}}), ErrorKind::usage, "do not fit"));
}

// Their list lies below the memory map.
TEST_F(LoaderTest, TooManyInitrdsAreRefused) {
    const auto small = filled(1, 1);
    BootSource source;
    source.initrds.assign(64, small);
    ASSERT_TRUE(ok(load(ElfFile(), source)));
    EXPECT_EQ(at<Module>(platform::kPvhModules.value + 63 * sizeof(Module)).size, 1U);
    EXPECT_EQ(at<MapEntry>(platform::kPvhMemoryMap.value).size, 0x9FC00U);
    source.initrds.push_back(small);
    EXPECT_TRUE(fails(load(ElfFile(), source), ErrorKind::usage, "too many"));
}

}  // namespace
}  // namespace snapvm
