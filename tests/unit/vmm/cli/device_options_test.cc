// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/device_options.h"

#include "tests/support/result_matchers.h"
#include "vmm/base/try.h"

namespace snapvm::cli {
namespace {

using test::fails;
using test::ok;

DeviceConfig devices() {
    DeviceConfig config;
    config.disks = {{.id = "root", .path = "/root"}, {.id = "my.data", .path = "/data", .read_only = true}};
    config.vsock = {.cid = 3, .socket = "/v"};
    return config;
}

TEST(DeviceOptions, TwoCommasAreOneInAValue) {
    const auto disk = parse_disk("id=a,path=/x,,y,,,readonly=on");
    ASSERT_TRUE(ok(disk));
    EXPECT_EQ(disk->path, "/x,y,");
    EXPECT_TRUE(disk->read_only);
    EXPECT_EQ(parse_disk("path=/only,,,,two,id=b")->path, "/only,,two");
    EXPECT_EQ(parse_vsock("cid=3,socket=/v,,1")->socket, "/v,1");
    EXPECT_TRUE(fails(parse_disk("id=a,path=/x,y"), ErrorKind::usage, "a comma in a value is written ,,"));
    for (const char* bad : {"", ",", "id=a,", "id=a,path=/x,", ",id=a,path=/x", "id=a,,path=/x", "id=a,path=,"}) {
        EXPECT_TRUE(fails(parse_disk(bad), ErrorKind::usage)) << bad;
    }
}

TEST(DeviceOptions, AFormatIsRawOrQcow2OrNotStated) {
    EXPECT_EQ(parse_disk("id=a,path=/x")->format, DiskFormat::unstated);
    EXPECT_EQ(parse_disk("id=a,path=/x,format=raw")->format, DiskFormat::raw);
    EXPECT_EQ(parse_disk("id=a,path=/x,format=qcow2")->format, DiskFormat::qcow2);
    EXPECT_TRUE(fails(parse_disk("id=a,path=/x,format=vmdk"), ErrorKind::usage, "no disks of format vmdk"));
    EXPECT_EQ(parse_disk("id=a,path=/x,format=qcow2,backing=/dev/x")->backing, std::vector<std::string>{"/dev/x"});
}

TEST(DeviceOptions, ADiskReportsWriteErrorsOrStops) {
    EXPECT_EQ(parse_disk("id=a,path=/x")->write_errors, WriteErrors::report);
    EXPECT_EQ(parse_disk("id=a,path=/x,werror=report")->write_errors, WriteErrors::report);
    EXPECT_EQ(parse_disk("id=a,path=/x,werror=stop")->write_errors, WriteErrors::stop);
    EXPECT_TRUE(fails(parse_disk("id=a,path=/x,werror=enospc"), ErrorKind::usage, "neither stop nor report"));
}

TEST(DeviceOptions, ADiskIsEphemeralInMemoryOrInAFile) {
    EXPECT_EQ(parse_disk("id=a,path=/x")->ephemeral, Ephemeral::off);
    EXPECT_EQ(parse_disk("id=a,path=/x,ephemeral=off")->ephemeral, Ephemeral::off);
    EXPECT_EQ(parse_disk("id=a,path=/x,ephemeral=on")->ephemeral, Ephemeral::memory);
    EXPECT_EQ(parse_disk("id=a,path=/x,ephemeral=memory")->ephemeral, Ephemeral::memory);
    EXPECT_EQ(parse_disk("id=a,path=/x,ephemeral=on")->ephemeral_max, 0U);
    const auto limited = parse_disk("id=a,path=/x,ephemeral=file,ephemeral-max=2G");
    ASSERT_TRUE(ok(limited));
    EXPECT_EQ(limited->ephemeral, Ephemeral::file);
    EXPECT_EQ(limited->ephemeral_max, 2ULL << 30);
    EXPECT_TRUE(fails(parse_disk("id=a,path=/x,ephemeral=/tmp"), ErrorKind::usage, "neither on, off nor file"));
    EXPECT_TRUE(fails(parse_disk("id=a,path=/x,ephemeral=on,ephemeral-max=0"), ErrorKind::usage, "is 0"));
    EXPECT_TRUE(fails(parse_disk("id=a,path=/x,ephemeral=on,ephemeral-max=much"), ErrorKind::usage));
}

/// Applies one setting of `--set`.
Status set_device(DeviceConfig& config, const std::string& setting, unsigned clone) {
    return TRY(parse_settings(std::span(&setting, 1), clone)).apply(config);
}

TEST(SetDevice, ChangesTheHostsSide) {
    DeviceConfig config = devices();
    EXPECT_TRUE(ok(set_device(config, "disk.root.path=/clones/{i}/disk-{i}=x", 12)));
    EXPECT_EQ(config.disks[0].path, "/clones/12/disk-12=x");
    EXPECT_TRUE(ok(set_device(config, "disk.my.data.path=here", 0)));
    EXPECT_TRUE(config.disks[1].path.starts_with('/') && config.disks[1].path.ends_with("/here"))
        << config.disks[1].path;
    EXPECT_TRUE(config.disks[1].read_only);
    EXPECT_TRUE(fails(set_device(config, "disk.root.backing=/dev/x", 0), ErrorKind::usage, "format=qcow2"));
    config.disks[0].format = DiskFormat::qcow2;
    EXPECT_TRUE(ok(set_device(config, "disk.root.backing=/dev/x", 0)));
    EXPECT_EQ(config.disks[0].backing, std::vector<std::string>{"/dev/x"});
    EXPECT_TRUE(ok(set_device(config, "vsock.socket=/v{i}", 3)));
    EXPECT_TRUE(ok(set_device(config, "vsock.cid=1{i}", 3)));
    EXPECT_EQ(*config.vsock, (VsockConfig{.cid = 13, .socket = "/v3"}));
}

TEST(SetDevice, RefusesTheRest) {
    for (const char* setting :
         {"", "=", "vsock", "vsock.socket", "vsock.socket=", "vsock.colour=red", "disk.path=/x", "disk..path=/x",
          "disk.root.readonly=on", "disk.none.path=/x", "root.path=/x", "vsock.cid=2", "vsock.cid={i}x"}) {
        DeviceConfig config = devices();
        EXPECT_TRUE(fails(set_device(config, setting, 1), ErrorKind::usage)) << setting;
    }
    DeviceConfig bare;
    EXPECT_TRUE(fails(set_device(bare, "vsock.cid=5", 0), ErrorKind::usage, "no vsock"));
    EXPECT_TRUE(fails(set_device(bare, "disk.a.path=/x", 0), ErrorKind::usage, "no disk a"));
}

TEST(CheckClones, NoTwoHaveTheSameToThemselves) {
    const auto check = [](std::vector<std::string> settings, unsigned count) {
        return check_clones(devices(), settings, count);
    };
    EXPECT_TRUE(ok(check({}, 1)));
    EXPECT_TRUE(fails(check({}, 2), ErrorKind::usage, "disk.root.path=COPY{i}"));
    EXPECT_TRUE(fails(check({"disk.root.path=/r{i}"}, 2), ErrorKind::usage, "vsock.socket=PATH{i}"));
    EXPECT_TRUE(ok(check({"disk.root.path=/r{i}", "vsock.socket=/v{i}"}, 10'000)));
    EXPECT_TRUE(
        fails(check({"disk.root.path=/r{i}", "vsock.socket=/v", "vsock.cid=1{i}"}, 3), ErrorKind::usage, "3 machines"));
}

TEST(CheckClones, EachHasATapOfItsOwn) {
    DeviceConfig config;
    config.nets = {{.id = "eth0", .tap = "tap0", .mac = {2, 0, 0, 0, 0, 1}}};
    const auto check = [&](std::vector<std::string> settings) { return check_clones(config, settings, 2); };
    EXPECT_TRUE(fails(check({}), ErrorKind::usage, "net.eth0.tap=TAP{i}"));
    EXPECT_TRUE(ok(check({"net.eth0.tap=t{i}"})));
    EXPECT_TRUE(fails(check({"net.eth1.tap=t{i}"}), ErrorKind::usage, "no network interface eth1"));
}

}  // namespace
}  // namespace snapvm::cli
