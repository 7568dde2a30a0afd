// SPDX-License-Identifier: Apache-2.0
// What `inspect` says of a snapshot's devices. An area is not needed for that.
#include "snapshot/report/inspect.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace snapvm::test {
namespace {

AreaInfo info_with_devices() {
    AreaInfo info;
    info.area = "/a";
    info.config.emplace();
    DeviceConfig& devices = info.config->devices;
    devices.disks = {
        {.id = "root", .path = "/disks/root", .format = DiskFormat::qcow2, .write_errors = WriteErrors::stop},
        {.id = "seed", .path = "/seed", .read_only = true}};
    devices.nets = {{.id = "eth0", .tap = "tap7", .mac = {2, 0, 0, 0, 0, 10}}};
    devices.vsock = {.cid = 5, .socket = "/run/v"};
    devices.balloon = {.bytes = 64 << 20};
    devices.rng = true;
    devices.console = true;
    info.disk_bytes = {1 << 30, 1 << 20};
    info.created_us = 1'700'000'000'000'000;
    return info;
}

TEST(Inspect, ShowsEveryDeviceAsText) {
    const std::string text = to_text(info_with_devices());
    for (const char* line :
         {"\ncreated       2023-11-14 22:13:20 UTC\n",
          "\ndisk root     1G, qcow2, written, stops on write errors, /disks/root\n",
          "\ndisk seed     1M, raw, read-only, /seed\n", "\nnet eth0      02:00:00:00:00:0a, tap tap7\n",
          "\nvsock         cid 5, socket /run/v\n", "\nballoon       64M at first\n", "\nrng\n", "\nconsole\n"}) {
        EXPECT_NE(text.find(line), std::string::npos) << line << text;
    }
}

TEST(Inspect, ShowsEveryDeviceAsJson) {
    const auto json = nlohmann::json::parse(to_json(info_with_devices()));
    EXPECT_EQ(json["created_us"], 1'700'000'000'000'000);
    EXPECT_EQ(json["devices"], nlohmann::json::parse(R"([
        {"kind": "disk", "id": "root", "bytes": 1073741824, "path": "/disks/root", "format": "qcow2",
         "werror": "stop", "read_only": false},
        {"kind": "disk", "id": "seed", "bytes": 1048576, "path": "/seed", "format": "raw", "werror": "report",
         "read_only": true},
        {"kind": "net", "id": "eth0", "tap": "tap7", "mac": "02:00:00:00:00:0a"},
        {"kind": "vsock", "cid": 5, "socket": "/run/v"}, {"kind": "balloon", "bytes": 67108864},
        {"kind": "rng"}, {"kind": "console"}])"));
}

TEST(Inspect, NamesInASnapshotDoNotReachTheTerminal) {
    AreaInfo info = info_with_devices();
    const std::string name = "x\x1b]0;title\x07\n\xff";
    DeviceConfig& devices = info.config->devices;
    for (std::string* text : {&info.area, &info.config->kernel, &info.config->cmdline, &devices.disks[0].id,
                              &devices.disks[0].path, &devices.nets[0].tap, &devices.vsock->socket, &info.metadata}) {
        *text = name;
    }
    info.config->initrds = {name};
    EXPECT_EQ(to_text(info).find_first_of("\x1b\x07\xff"), std::string::npos) << to_text(info);
    EXPECT_NE(to_text(info).find(R"(written, stops on write errors, x\x1b]0;title\x07\x0a\xff)"), std::string::npos)
        << to_text(info);
    EXPECT_EQ(to_json(info).find_first_of("\x1b\x07\xff\n"), std::string::npos);
    EXPECT_TRUE(nlohmann::json::accept(to_json(info)));
}

TEST(Inspect, AnyTimeIsShown) {
    AreaInfo info = info_with_devices();
    for (const std::uint64_t us : {std::uint64_t{0}, ~std::uint64_t{0}}) {
        info.created_us = us;
        EXPECT_NE(to_text(info).find("\ncreated "), std::string::npos);
    }
}

}  // namespace
}  // namespace snapvm::test
