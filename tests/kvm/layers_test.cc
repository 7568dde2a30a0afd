// SPDX-License-Identifier: Apache-2.0
// Layers of a running machine's disk.
#include <filesystem>
#include <string>
#include <vector>

#include "tests/kvm/ledger_guest.h"
#include "tests/support/qemu_img.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kDiskBytes = 1ULL << 20;
constexpr int kLayers = 5;

class DiskLayers : public KvmTest {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        SNAPVM_REQUIRE_QEMU_IMG();
    }
    [[nodiscard]] std::string path(std::string_view name) const { return area(name).path; }
    [[nodiscard]] std::string make(DiskFormat format) const {
        const std::string image = path(format == DiskFormat::raw ? "disk.img" : "disk.qcow2");
        make_image(image, kDiskBytes, {}, std::string(name_of(format)));
        return image;
    }
    [[nodiscard]] std::unique_ptr<Machine> boot(const std::string& image, DiskFormat format,
                                                bool read_only = false) const {
        LedgerOptions options{.cpus = 2, .cmdline = read_only ? "ws=1M seen=1" : "ws=1M seen=1 disk=1 rate=0"};
        options.devices.disks = {{.id = "ledger", .path = image, .read_only = read_only, .format = format}};
        return boot_ledger(options);
    }
    [[nodiscard]] Bytes contents(const std::string& image, DiskFormat format) const {
        qemu_img({"convert", "-f", std::string(name_of(format)), "-O", "raw", image, path("raw")});
        return read_file(path("raw"));
    }
    void expect_whole(DiskFormat format);
};

// Layers are taken while the guest writes. The machine then goes on from memory and the last
// overlay, whose chain has all that the guest has written, and no layer has changed.
void DiskLayers::expect_whole(DiskFormat format) {
    std::unique_ptr<Machine> machine = boot(make(format), format);
    wait_for_records(*machine, 1);
    std::vector<std::pair<LayerTaken, Bytes>> layers;
    for (int i = 0; i < kLayers; ++i) {
        const std::uint64_t records = disk_header(machine->memory()).submitted;
        const LayerTaken taken = need(machine->take_layer("ledger", "t" + std::to_string(i), ""));
        EXPECT_EQ(machine->config().devices.disks[0].path, taken.active);
        EXPECT_EQ(machine->config().devices.disks[0].format, DiskFormat::qcow2);
        layers.emplace_back(taken, contents(taken.frozen, i == 0 ? format : DiskFormat::qcow2));
        wait_for_records(*machine, records + 1);
        run_a_while(20ms);
    }
    WriteOptions options;
    options.keep_frozen = true;
    snapshot(*machine, area(), options);
    const std::string active = machine->config().devices.disks[0].path;
    machine.reset();
    EXPECT_EQ(check_disk(need(open_snapshot(area())).memory, contents(active, DiskFormat::qcow2)), "");
    for (std::size_t i = 0; i < layers.size(); ++i) {
        SCOPED_TRACE(layers[i].first.frozen);
        const DiskFormat its = i == 0 ? format : DiskFormat::qcow2;
        EXPECT_TRUE(contents(layers[i].first.frozen, its) == layers[i].second);
        EXPECT_TRUE(its == DiskFormat::raw || is_clean(layers[i].first.frozen));
    }
    EXPECT_TRUE(is_clean(active));
    machine = restore(area());
    need(machine->resume());
    const LedgerLine line = verify_ledger(*machine);
    EXPECT_TRUE(line.ok) << line.text;
    expect_sound_end(*machine);
}

TEST_F(DiskLayers, OfARawFile) { expect_whole(DiskFormat::raw); }
TEST_F(DiskLayers, OfAnImage) { expect_whole(DiskFormat::qcow2); }

TEST_F(DiskLayers, APausedMachineHasThem) {
    std::unique_ptr<Machine> machine = boot(make(DiskFormat::qcow2), DiskFormat::qcow2);
    wait_for_records(*machine, 1);
    need(machine->pause());
    const LayerTaken taken = need(machine->take_layer("ledger", "paused", ""));
    EXPECT_EQ(machine->state(), Machine::State::paused);
    const std::uint64_t records = disk_header(machine->memory()).submitted;
    need(machine->resume());
    wait_for_records(*machine, records + 1);
    expect_sound_end(*machine);
}

// What is refused leaves the disk as it was, and the guest goes on.
TEST_F(DiskLayers, WhatIsRefusedChangesNothing) {
    const std::string image = make(DiskFormat::qcow2);
    std::unique_ptr<Machine> machine = boot(image, DiskFormat::qcow2);
    wait_for_records(*machine, 1);
    EXPECT_EQ(machine->take_layer("other", "t", "").error().kind(), ErrorKind::not_found);
    EXPECT_EQ(machine->take_layer("ledger", "../t", "").error().kind(), ErrorKind::usage);
    need(machine->take_layer("ledger", "t", ""));
    EXPECT_EQ(machine->take_layer("ledger", "t", "").error().kind(), ErrorKind::usage);
    EXPECT_EQ(machine->take_layer("ledger", "u", path("no folder") + "/o.qcow2").error().kind(), ErrorKind::system);
    EXPECT_EQ(machine->config().devices.disks[0].path, image);
    const std::uint64_t records = disk_header(machine->memory()).submitted;
    wait_for_records(*machine, records + 1);
    expect_sound_end(*machine);
}

TEST_F(DiskLayers, AReadOnlyDiskHasNone) {
    std::unique_ptr<Machine> machine = boot(make(DiskFormat::qcow2), DiskFormat::qcow2, /*read_only=*/true);
    EXPECT_EQ(machine->take_layer("ledger", "t", "").error().kind(), ErrorKind::usage);
}

}  // namespace
}  // namespace snapvm::test
