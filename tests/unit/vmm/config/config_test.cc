// SPDX-License-Identifier: Apache-2.0
#include "vmm/config/machine_config.h"

#include <functional>

#include "tests/support/result_matchers.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::uint64_t kGiB = 1ULL << 30;

MachineConfig full_config() {
    MachineConfig config;
    config.memory_bytes = 5 * kGiB;
    config.cpus = 4;
    config.pages = PagePolicy::huge_pages;
    config.boot = BootProtocol::linux64;
    config.kernel = "/boot/vmlinux";
    config.initrds = {"/a", "", "/c"};
    config.cmdline = "console=ttyS0 quiet";
    config.devices.disks = {{.id = "root", .path = "/disk", .read_only = true},
                            {.id = "data", .path = "/dev/vdb", .read_only = false}};
    config.devices.nets = {{.id = "eth0", .tap = "tap0", .mac = {2, 0, 0, 0, 0, 1}}};
    config.devices.vsock = VsockConfig{.cid = 7, .socket = "/run/vsock"};
    config.devices.balloon = BalloonConfig{.bytes = 64 * kMiB};
    config.devices.rng = true;
    for (std::uint8_t i = 0; i < 16; ++i) {
        config.machine_id.bytes[i] = static_cast<std::uint8_t>(0xF0 + i);
    }
    return config;
}

TEST(MachineConfig, RoundTrip) {
    for (const MachineConfig& config : {MachineConfig{}, full_config()}) {
        const auto decoded = MachineConfig::decode(config.encode());
        ASSERT_TRUE(ok(decoded));
        EXPECT_TRUE(*decoded == config);
    }
}

TEST(MachineConfig, NewerVersionIsNamedWithOurs) {
    auto bytes = full_config().encode();
    bytes[0] = std::byte{7};
    EXPECT_TRUE(fails(MachineConfig::decode(bytes), ErrorKind::unsupported,
                      "has version 7, and this program reads versions 2 and 3"));
    // Whatever follows: the version is looked at first.
    EXPECT_TRUE(fails(MachineConfig::decode(std::span(bytes).first(2)), ErrorKind::unsupported, "version 7"));
}

// Version 2 had no formats of disks, and nothing on their write errors.
TEST(MachineConfig, AnOlderVersionsDisksAreRaw) {
    MachineConfig config;
    config.devices.disks = {{.id = "root", .path = "/disk", .read_only = true}};
    std::vector<std::byte> bytes = config.encode();
    // Behind the last disk: network interfaces (4 bytes), vsock, balloon, random numbers, console.
    bytes.erase(bytes.end() - 9);
    bytes[0] = std::byte{2};
    const auto decoded = MachineConfig::decode(bytes);
    ASSERT_TRUE(ok(decoded));
    EXPECT_TRUE(*decoded == config);
}

TEST(MachineConfig, ASavedDiskStillStopsOnWriteErrors) {
    MachineConfig config;
    config.devices.disks = {{.id = "root", .path = "/disk", .write_errors = WriteErrors::stop},
                            {.id = "data", .path = "/data"}};
    const auto decoded = MachineConfig::decode(config.encode());
    ASSERT_TRUE(ok(decoded));
    EXPECT_EQ(decoded->devices, config.devices);
}

// By the time of a snapshot the guest may have written anything into its disk.
TEST(MachineConfig, ASavedDiskIsRaw) {
    MachineConfig config;
    config.devices.disks = {{.id = "root", .path = "/disk", .format = DiskFormat::unstated}};
    EXPECT_EQ(MachineConfig::decode(config.encode())->devices.disks[0].format, DiskFormat::raw);
}

// Its bytes are those of an image, whatever the guest has written.
TEST(MachineConfig, ASavedQcow2DiskStaysOne) {
    MachineConfig config;
    config.devices.disks = {{.id = "root", .path = "/disk", .format = DiskFormat::qcow2}};
    EXPECT_EQ(MachineConfig::decode(config.encode())->devices.disks[0].format, DiskFormat::qcow2);
}

TEST(MachineConfig, BackingFilesAreOfQcow2AndAreNotSaved) {
    MachineConfig config;
    config.devices.disks = {{.id = "root", .path = "/disk", .format = DiskFormat::qcow2, .backing = {"/dev/x"}}};
    EXPECT_TRUE(ok(config.validate()));
    EXPECT_TRUE(MachineConfig::decode(config.encode())->devices.disks[0].backing.empty());
    config.devices.disks[0].format = DiskFormat::raw;
    EXPECT_TRUE(fails(config.validate(), ErrorKind::usage, "add format=qcow2"));
}

TEST(MachineConfig, WhatIsEphemeralIsWrittenAndMayHaveALimit) {
    MachineConfig config;
    config.devices.disks = {{.id = "root", .path = "/disk", .ephemeral = Ephemeral::file, .ephemeral_max = 4096}};
    EXPECT_TRUE(ok(config.validate()));
    config.devices.disks[0].read_only = true;
    EXPECT_TRUE(fails(config.validate(), ErrorKind::usage, "give readonly=on or ephemeral=on, not both"));
    config.devices.disks[0] = {.id = "root", .path = "/disk", .ephemeral_max = 4096};
    EXPECT_TRUE(fails(config.validate(), ErrorKind::usage, "add ephemeral=on or ephemeral=file"));
}

TEST(MachineConfig, EveryTruncationAndExtensionIsRefused) {
    auto bytes = full_config().encode();
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_TRUE(fails(MachineConfig::decode(std::span(bytes).first(size)), ErrorKind::invalid)) << size;
    }
    bytes.push_back(std::byte{0});
    EXPECT_TRUE(fails(MachineConfig::decode(bytes), ErrorKind::invalid));
}

TEST(MachineConfig, EveryFlippedByteIsRefusedOrKept) {
    const auto bytes = full_config().encode();
    for (std::size_t at = 0; at < bytes.size(); ++at) {
        for (int flip = 1; flip < 256; ++flip) {
            auto changed = bytes;
            changed[at] ^= static_cast<std::byte>(flip);
            if (const auto decoded = MachineConfig::decode(changed)) {
                ASSERT_EQ(decoded->encode(), changed) << at;
            }
        }
    }
}

// A count that differs from the number of entries after it, also if it is above the limit.
TEST(MachineConfig, InitrdCountIsNotTrusted) {
    MachineConfig config;
    config.initrds.assign(16, "x");
    auto bytes = config.encode();
    ASSERT_TRUE(ok(MachineConfig::decode(bytes)));
    constexpr std::size_t kNoDevices = 12;
    const std::size_t count_at = bytes.size() - kNoDevices - 4 - 16 * 5 - 4;
    ASSERT_EQ(bytes[count_at], std::byte{16});
    for (const auto& [low, high] : {std::pair{0, 0}, {15, 0}, {17, 0}, {0xFF, 0xFF}, {0, 0x80}}) {
        bytes[count_at] = static_cast<std::byte>(low);
        bytes[count_at + 3] = static_cast<std::byte>(high);
        EXPECT_TRUE(fails(MachineConfig::decode(bytes), ErrorKind::invalid)) << low << ' ' << high;
    }
}

TEST(MachineConfig, ExtremesAreRefusedWithWhatIsAllowed) {
    using Change = std::function<void(MachineConfig&)>;
    const std::pair<const char*, Change> rows[] = {
        {"no memory", [](auto& c) { c.memory_bytes = 0; }},
        {"a byte", [](auto& c) { c.memory_bytes = 1; }},
        {"below the least", [](auto& c) { c.memory_bytes = platform::kMinMemory - 1; }},
        {"half a huge page", [](auto& c) { c.memory_bytes = 3 * kMiB; }},
        {"above the most", [](auto& c) { c.memory_bytes = platform::kMaxMemory + kHugePageSize; }},
        {"absurd", [](auto& c) { c.memory_bytes = ~0ULL; }},
        {"absurd, aligned", [](auto& c) { c.memory_bytes = ~0ULL << 21; }},
        {"no vCPU", [](auto& c) { c.cpus = 0; }},
        {"a vCPU too many", [](auto& c) { c.cpus = platform::kMaxCpus + 1; }},
        {"absurdly many vCPUs", [](auto& c) { c.cpus = ~0U; }},
        {"long command line", [](auto& c) { c.cmdline.assign(platform::kCommandLineLimit, 'x'); }},
        {"NUL in the command line", [](auto& c) { c.cmdline = std::string("a\0b", 3); }},
        {"too many initrds", [](auto& c) { c.initrds.assign(17, "x"); }},
        {"long kernel path", [](auto& c) { c.kernel.assign(4097, 'x'); }},
        {"an id twice", [](auto& c) { c.devices.nets[0].id = "root"; }},
        {"no id", [](auto& c) { c.devices.disks[0].id.clear(); }},
        {"long id", [](auto& c) { c.devices.disks[0].id.assign(21, 'x'); }},
        {"NUL in an id", [](auto& c) { c.devices.disks[0].id = std::string("a\0b", 3); }},
        {"space in an id", [](auto& c) { c.devices.disks[1].id = "my disk"; }},
        {"NUL in a disk path", [](auto& c) { c.devices.disks[0].path = std::string("/a\0b", 4); }},
        {"no disk path", [](auto& c) { c.devices.disks[0].path.clear(); }},
        {"long disk path", [](auto& c) { c.devices.disks[0].path.assign(4097, 'x'); }},
        {"no tap", [](auto& c) { c.devices.nets[0].tap.clear(); }},
        {"no MAC", [](auto& c) { c.devices.nets[0].mac = {}; }},
        {"a group's MAC", [](auto& c) { c.devices.nets[0].mac[0] = 1; }},
        {"reserved cid", [](auto& c) { c.devices.vsock->cid = 2; }},
        {"no vsock socket", [](auto& c) { c.devices.vsock->socket.clear(); }},
        {"too many devices",
         [](auto& c) {
             for (int i = 0; i < 12; ++i) {
                 c.devices.disks.push_back({.id = std::to_string(i), .path = "/x", .read_only = false});
             }
         }},
        {"long initrd path", [](auto& c) { c.initrds = {std::string(4097, 'x')}; }},
    };
    for (const auto& [name, change] : rows) {
        MachineConfig config = full_config();
        change(config);
        const Status status = config.validate();
        EXPECT_TRUE(fails(status, ErrorKind::usage)) << name;
        EXPECT_FALSE(status.error().advice().empty()) << name;
        // The same in a file is the file's fault.
        EXPECT_TRUE(fails(MachineConfig::decode(config.encode()), ErrorKind::invalid)) << name;
    }
}

TEST(MachineConfig, LimitsThemselvesAreAllowed) {
    MachineConfig config;
    config.memory_bytes = platform::kMinMemory;
    config.cmdline.assign(platform::kCommandLineLimit - 1, 'x');
    config.initrds.assign(16, std::string(4096, 'x'));
    EXPECT_TRUE(ok(config.validate()));
    EXPECT_TRUE(ok(MachineConfig::decode(config.encode())));
    config.memory_bytes = platform::kMaxMemory;
    config.cpus = platform::kMaxCpus;
    EXPECT_TRUE(ok(config.validate()));
}

TEST(MachineConfig, UnknownEnumeratorsAreRefused) {
    const auto bytes = MachineConfig{}.encode();
    for (const std::size_t at : {std::size_t{14}, std::size_t{15}}) {  // after version, memory and vCPUs
        for (const int value : {3, 4, 255}) {
            auto changed = bytes;
            changed[at] = static_cast<std::byte>(value);
            EXPECT_TRUE(fails(MachineConfig::decode(changed), ErrorKind::invalid, "unknown")) << at << ' ' << value;
        }
    }
}

TEST(MachineConfig, RamIsSplitAroundTheHole) {
    const auto ram_of = [](std::uint64_t memory) {
        MachineConfig config;
        config.memory_bytes = memory;
        auto list = config.blocks();
        list.resize(list.size() - 2);  // the firmware tables and the VM generation ID
        return list;
    };
    using List = std::vector<BlockSpec>;
    EXPECT_EQ(ram_of(2 * kMiB), (List{{BlockId::ram_low, Gpa{0}, 2 * kMiB}}));
    EXPECT_EQ(ram_of(3 * kGiB), (List{{BlockId::ram_low, Gpa{0}, 3 * kGiB}}));
    EXPECT_EQ(ram_of(3 * kGiB + 2 * kMiB),
              (List{{BlockId::ram_low, Gpa{0}, 3 * kGiB}, {BlockId::ram_high, Gpa{4 * kGiB}, 2 * kMiB}}));
    EXPECT_EQ(ram_of(5 * kGiB),
              (List{{BlockId::ram_low, Gpa{0}, 3 * kGiB}, {BlockId::ram_high, Gpa{4 * kGiB}, 2 * kGiB}}));
}

TEST(Uuid, IsRandomVersionFour) {
    const auto a = Uuid::random();
    const auto b = Uuid::random();
    ASSERT_TRUE(ok(a));
    ASSERT_TRUE(ok(b));
    EXPECT_FALSE(*a == *b);
    EXPECT_EQ(a->bytes[6] >> 4, 4);
    EXPECT_EQ(a->bytes[8] >> 6, 2);
    EXPECT_EQ(full_config().machine_id.text(), "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff");
}

}  // namespace
}  // namespace snapvm
