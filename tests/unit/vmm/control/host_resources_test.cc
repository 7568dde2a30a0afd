// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/host_resources.h"

#include <fcntl.h>

#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scoped_variable.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::test {
namespace {

class HostResources : public testing::Test {
protected:
    void SetUp() override {
        place_.path = scratch_.file("area");
        const UniqueFd fd(::open(place_.path.c_str(), O_RDWR | O_CREAT, 0600));
        place_.area = need(AreaIdentity::of(fd.get(), 0, place_.path));
    }
    static DeviceConfig devices() {
        DeviceConfig config;
        config.disks = {{.id = "root", .path = "/r"}, {.id = "seed", .path = "/s", .read_only = true}};
        config.nets = {{.id = "eth0", .tap = "tap0", .mac = {2, 0, 0, 0, 0, 1}}};
        config.vsock = {.cid = 3, .socket = "/v"};
        return config;
    }
    Status check(const DeviceConfig& config, const DeviceOverrides& named = {}, bool all = false) {
        return check_resources(host_resources(config), {.named = named, .all = all}, place_);
    }

    ScratchFolder scratch_;
    ScopedVariable state_{"XDG_STATE_HOME", scratch_.file("state").c_str()};
    SnapshotPlace place_;
};

TEST_F(HostResources, NothingIsTakenFromASnapshotOfSomebodyElse) {
    const Status refused = check(devices());
    EXPECT_TRUE(fails(refused, ErrorKind::usage, "/r for disk root (written), /s for disk seed (read-only), tap tap0"));
    EXPECT_TRUE(fails(refused, ErrorKind::usage,
                      "--set disk.root.path=/r --set disk.seed.path=/s --set net.eth0.tap=tap0 --set vsock.socket=/v"));
    EXPECT_TRUE(fails(refused, ErrorKind::usage, "--trust-paths"));
    EXPECT_TRUE(ok(check(devices(), {}, /*all=*/true)));
    EXPECT_TRUE(ok(check({}))) << "a machine that uses nothing";
}

TEST_F(HostResources, AnEphemeralDiskIsOnlyRead) {
    DeviceConfig config;
    config.disks = {{.id = "root", .path = "/r", .ephemeral = Ephemeral::memory}};
    ASSERT_EQ(host_resources(config).size(), 1U);
    EXPECT_TRUE(host_resources(config)[0].read_only) << "machines can share it";
}

TEST_F(HostResources, WhatTheCallerNamesIsUsed) {
    const DeviceOverrides most{.disks = {{"root", "/x"}, {"seed", "/s"}}, .taps = {{"eth0", "t"}}};
    const Status refused = check(devices(), most);
    EXPECT_TRUE(fails(refused, ErrorKind::usage, "wants socket /v for the vsock, and"));
    DeviceOverrides all = most;
    all.vsock_socket = "/w";
    EXPECT_TRUE(ok(check(devices(), all)));
}

TEST_F(HostResources, WhatTheUserWroteDownIsUsed) {
    ASSERT_TRUE(ok(record_snapshot(place_, host_resources(devices()))));
    EXPECT_TRUE(ok(check(devices())));
    // A snapshot with the known id in the known file, and other resources.
    const auto changed = [&](auto change) {
        DeviceConfig config = devices();
        change(config);
        return check(config);
    };
    EXPECT_TRUE(fails(changed([](DeviceConfig& c) { c.disks[0].path = "/etc/shadow"; }), ErrorKind::usage,
                      "wants /etc/shadow for disk root (written), and"));
    EXPECT_TRUE(fails(changed([](DeviceConfig& c) { c.disks[0].id = "r"; }), ErrorKind::usage, "disk.r.path"));
    EXPECT_TRUE(fails(changed([](DeviceConfig& c) { c.nets[0].tap = "t"; }), ErrorKind::usage, "net.eth0.tap=t"));
    EXPECT_TRUE(fails(changed([](DeviceConfig& c) { c.vsock->socket = "/w"; }), ErrorKind::usage, "vsock.socket=/w"));
    EXPECT_TRUE(fails(changed([](DeviceConfig& c) { c.disks[0].read_only = true; }), ErrorKind::usage));
    place_.id.bytes[0] = 1;
    EXPECT_TRUE(fails(check(devices()), ErrorKind::usage));
}

TEST_F(HostResources, AReadOnlyDiskNeverBecomesWritable) {
    ASSERT_TRUE(ok(record_snapshot(place_, host_resources(devices()))));
    DeviceConfig written = devices();
    written.disks[1].read_only = false;
    for (const bool all : {false, true}) {
        EXPECT_TRUE(fails(check(written, {.disks = {{"seed", "/s"}}}, all), ErrorKind::invalid,
                          "says that disk seed is written, but it was read-only"));
    }
}

TEST_F(HostResources, TheWordsAreForAShell) {
    DeviceConfig config;
    config.disks = {{.id = "$x", .path = "/a b'; rm -rf c"}};
    EXPECT_TRUE(fails(check(config), ErrorKind::usage, R"(--set 'disk.$x.path=/a b'\''; rm -rf c';)"));
}

}  // namespace
}  // namespace snapvm::test
