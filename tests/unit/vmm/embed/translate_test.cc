// SPDX-License-Identifier: Apache-2.0
// What an embedder asks for reaches the inside, and its results come back; nothing of it needs KVM.
// tests/kvm/embed_test.cc has machines.
#include "vmm/embed/translate.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/support/need.h"
#include "tests/support/result_matchers.h"

namespace snapvm::embed {
namespace {

using namespace std::chrono_literals;
using test::fails;
using test::need;

TEST(EmbedTranslate, AConfigurationReachesTheInside) {
    const MachineConfig config{
        .kernel = "k",
        .initrds = {"a", "b"},
        .command_line = "quiet",
        .boot = BootProtocol::linux64,
        .memory_bytes = 64 << 20,
        .cpus = 3,
        .disks = {{.id = "root", .path = "disk", .read_only = true}},
        .networks = {{.id = "eth0", .tap = "t0", .mac = "02:00:00:00:00:0a"}, {.id = "eth1", .tap = "t1"}},
        .vsock = Vsock{.cid = 9, .socket = "/v"},
        .balloon_bytes = 4096,
        .rng = true};
    const snapvm::MachineConfig inside = need(to_internal(config));
    EXPECT_EQ(inside.kernel, "k");
    EXPECT_EQ(inside.initrds, config.initrds);
    EXPECT_EQ(inside.cmdline, "quiet");
    EXPECT_EQ(inside.boot, snapvm::BootProtocol::linux64);
    EXPECT_EQ(inside.memory_bytes, 64U << 20);
    EXPECT_EQ(inside.cpus, 3U);
    EXPECT_NE(inside.machine_id, Uuid{});
    const DeviceConfig& devices = inside.devices;
    EXPECT_EQ(devices.disks, (std::vector<DiskConfig>{{"root", (std::filesystem::current_path() / "disk").string(),
                                                       true, snapvm::DiskFormat::unstated}}));
    EXPECT_EQ(need(to_internal(MachineConfig{.disks = {{.id = "r", .path = "/d", .format = DiskFormat::qcow2}}}))
                  .devices.disks[0]
                  .format,
              snapvm::DiskFormat::qcow2);
    const MachineConfig stopping{.disks = {{.id = "r", .path = "/d", .write_errors = WriteErrors::stop}}};
    EXPECT_EQ(need(to_internal(stopping)).devices.disks[0].write_errors, snapvm::WriteErrors::stop);
    const MachineConfig ephemeral{
        .disks = {{.id = "r", .path = "/d", .ephemeral = Ephemeral::file, .ephemeral_max_bytes = 4096}}};
    EXPECT_EQ(need(to_internal(ephemeral)).devices.disks[0].ephemeral, snapvm::Ephemeral::file);
    EXPECT_EQ(need(to_internal(ephemeral)).devices.disks[0].ephemeral_max, 4096U);
    ASSERT_EQ(devices.nets.size(), 2U);
    EXPECT_EQ(devices.nets[0], (NetConfig{"eth0", "t0", {2, 0, 0, 0, 0, 10}}));
    EXPECT_NE(devices.nets[1].mac, MacAddress{}) << "a random one";
    EXPECT_EQ(devices.vsock, (VsockConfig{9, "/v"}));
    EXPECT_EQ(devices.balloon, BalloonConfig{4096});
    EXPECT_TRUE(devices.rng);
    EXPECT_FALSE(devices.console);

    EXPECT_TRUE(fails(to_internal(MachineConfig{.cpus = 65}), ErrorKind::usage, "65 vCPUs"));
    EXPECT_TRUE(fails(to_internal(MachineConfig{.disks = {{.id = "root"}}}), ErrorKind::usage, "is missing"));
    EXPECT_TRUE(fails(to_internal(MachineConfig{.networks = {{.id = "e", .tap = "t", .mac = "1"}}}), ErrorKind::usage));
}

TEST(EmbedTranslate, AnAreaKeepsItsWholePath) {
    EXPECT_EQ(need(to_internal(Area{.path = "/a@4K"})), (AreaPath{"/a@4K", 0}));
    EXPECT_EQ(need(to_internal(Area{.path = "/a", .offset = 8192})), (AreaPath{"/a", 8192}));
    EXPECT_TRUE(fails(to_internal(Area{}), ErrorKind::usage, "names no file"));
    EXPECT_TRUE(fails(to_internal(Area{.path = "/a", .offset = 1}), ErrorKind::usage, "multiple of 4096"));
}

TEST(EmbedTranslate, SnapshotOptionsReachTheInside) {
    const Area area{.path = "/a"};
    SnapshotRequest inside = need(to_internal(area, SnapshotOptions{}));
    EXPECT_EQ(inside.mode, snapvm::SnapshotMode::live);
    EXPECT_EQ(inside.type, snapvm::SnapshotType::automatic);
    EXPECT_EQ(inside.then, snapvm::AfterSnapshot::as_before);
    EXPECT_EQ(inside.live.max_pause, LiveOptions{}.max_pause) << "the same default";
    EXPECT_FALSE(inside.track);
    inside = need(to_internal(area, SnapshotOptions{.mode = SnapshotMode::precopy,
                                                    .type = SnapshotType::full,
                                                    .then = AfterSnapshot::pause,
                                                    .max_pause = 5ms,
                                                    .track = true}));
    EXPECT_EQ(inside.mode, snapvm::SnapshotMode::precopy);
    EXPECT_EQ(inside.type, snapvm::SnapshotType::full);
    EXPECT_EQ(inside.then, snapvm::AfterSnapshot::pause);
    EXPECT_EQ(inside.live.max_pause, 5ms);
    EXPECT_TRUE(inside.track);
    inside = need(to_internal(
        area,
        SnapshotOptions{
            .mode = SnapshotMode::stop, .type = SnapshotType::diff, .then = AfterSnapshot::stop, .max_pause = -1us}));
    EXPECT_EQ(inside.mode, snapvm::SnapshotMode::stop);
    EXPECT_EQ(inside.type, snapvm::SnapshotType::diff);
    EXPECT_EQ(inside.then, snapvm::AfterSnapshot::stop);
    EXPECT_EQ(inside.live.max_pause, 0us);
}

TEST(EmbedTranslate, RestoreOptionsReachTheInside) {
    const RestoreRequest inside = need(to_internal(Area{.path = "/a"}, RestoreOptions{.disks = {{"root", "/d"}},
                                                                                      .taps = {{"eth0", "t9"}},
                                                                                      .vsock_socket = "/v",
                                                                                      .vsock_cid = 5,
                                                                                      .clock_shows_gap = true,
                                                                                      .share_equal_pages = true,
                                                                                      .trust_paths = true,
                                                                                      .max_memory_bytes = 1 << 30}));
    EXPECT_EQ(inside.devices.disks, (std::map<std::string, std::string>{{"root", "/d"}}));
    EXPECT_EQ(inside.devices.taps, (std::map<std::string, std::string>{{"eth0", "t9"}}));
    EXPECT_EQ(inside.devices.vsock_socket, "/v");
    EXPECT_EQ(inside.devices.vsock_cid, 5U);
    EXPECT_EQ(inside.gap, GapMode::seen);
    EXPECT_TRUE(inside.share);
    EXPECT_TRUE(inside.trust_paths);
    EXPECT_EQ(inside.max_memory_bytes, 1U << 30);
    const RestoreRequest plain = need(to_internal(Area{.path = "/a"}, RestoreOptions{}));
    EXPECT_EQ(plain.gap, GapMode::hidden);
    EXPECT_FALSE(plain.trust_paths);
    EXPECT_FALSE(plain.max_memory_bytes.has_value());
}

TEST(EmbedTranslate, AnOutcomeComesBack) {
    using Inside = snapvm::Outcome::Kind;
    using Kind = Outcome::Kind;
    for (const auto& [inside, kind] :
         {std::pair(Inside::power_off, Kind::power_off), std::pair(Inside::reboot, Kind::reboot),
          std::pair(Inside::guest_exit, Kind::guest_exit), std::pair(Inside::triple_fault, Kind::triple_fault),
          std::pair(Inside::guest_panic, Kind::guest_panic), std::pair(Inside::failed, Kind::failed),
          std::pair(Inside::stopped, Kind::stopped)}) {
        const snapvm::Outcome ended{.kind = inside, .code = 7, .error = {}};
        const Outcome outcome = to_public(ended);
        EXPECT_EQ(outcome.kind, kind);
        EXPECT_EQ(outcome.code, 7);
        EXPECT_EQ(outcome.exit_code, ended.exit_code());
        EXPECT_EQ(outcome.name, ended.name());
        EXPECT_EQ(outcome.crash_report, "");
    }
    const snapvm::Outcome failed{
        .kind = Inside::failed, .code = 0, .error = Error::system("KVM_RUN", "vCPU 1", EFAULT)};
    EXPECT_EQ(to_public(failed).error->object(), "vCPU 1");
    EXPECT_EQ(to_public(failed).error->code(), EFAULT);
}

TEST(EmbedTranslate, AReportComesBack) {
    snapvm::SnapshotReport inside;
    inside.pause_us = 3;
    inside.total_us = 4;
    inside.rounds = {{.dirty_pages = 5, .written_bytes = 6, .us = 7}};
    inside.pages = {10, 11, 12, 13, 14, 15, 16};
    inside.area_bytes = 20;
    inside.written_bytes = 21;
    inside.staging_peak_bytes = 22;
    inside.tracker = "log";
    inside.type = "diff";
    inside.diverged = true;
    const SnapshotReport report = to_public(inside);
    EXPECT_EQ(report.pause, 3us);
    EXPECT_EQ(report.total, 4us);
    ASSERT_EQ(report.rounds.size(), 1U);
    EXPECT_EQ(report.rounds[0].pages, 5U);
    EXPECT_EQ(report.rounds[0].written_bytes, 6U);
    EXPECT_EQ(report.rounds[0].time, 7us);
    const PageCounts& pages = report.pages;
    EXPECT_EQ(
        (std::vector{pages.absent, pages.zero, pages.common, pages.shared, pages.balloon, pages.free, pages.swapped}),
        (std::vector<std::uint64_t>{10, 11, 12, 13, 14, 15, 16}));
    EXPECT_EQ(report.area_bytes + report.written_bytes + report.staging_peak_bytes, 63U);
    EXPECT_EQ(report.tracker, "log");
    EXPECT_FALSE(report.full);
    EXPECT_TRUE(report.diverged);
}

TEST(EmbedTranslate, StatisticsComeBack) {
    ServiceStats inside;
    inside.uptime_us = 1;
    inside.exits = 2;
    inside.ready = true;
    inside.ready_value = 3;
    inside.mark = 4;
    inside.marks = 5;
    inside.serial_bytes = 6;
    inside.networks = {{.id = "eth0",
                        .link_up = true,
                        .counters = {{"received_frames", 1},
                                     {"received_bytes", 2},
                                     {"received_dropped", 3},
                                     {"transmitted_frames", 4},
                                     {"transmitted_bytes", 5},
                                     {"transmitted_dropped", 6}}}};
    const Statistics statistics = to_public(inside);
    EXPECT_EQ(statistics.uptime, 1us);
    EXPECT_EQ(statistics.exits, 2U);
    EXPECT_TRUE(statistics.ready);
    EXPECT_EQ(statistics.ready_value, 3U);
    EXPECT_EQ(statistics.mark, 4U);
    EXPECT_EQ(statistics.marks, 5U);
    EXPECT_EQ(statistics.serial_bytes, 6U);
    ASSERT_EQ(statistics.networks.size(), 1U);
    const NetworkStatistics& network = statistics.networks[0];
    EXPECT_EQ(network.id, "eth0");
    EXPECT_TRUE(network.link_up);
    EXPECT_EQ((std::vector{network.received_frames, network.received_bytes, network.received_dropped,
                           network.transmitted_frames, network.transmitted_bytes, network.transmitted_dropped}),
              (std::vector<std::uint64_t>{1, 2, 3, 4, 5, 6}));
}

TEST(EmbedTranslate, AMachineThatHasNotRunIsPaused) {
    EXPECT_EQ(to_public(ServiceState::not_started), State::paused);
    EXPECT_EQ(to_public(ServiceState::paused), State::paused);
    EXPECT_EQ(to_public(ServiceState::running), State::running);
    EXPECT_EQ(to_public(ServiceState::ended), State::ended);
}

}  // namespace
}  // namespace snapvm::embed
