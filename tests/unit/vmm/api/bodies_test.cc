// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/unit/vmm/api/schema_check.h"
#include "vmm/api/bodies.h"

namespace snapvm::api {
namespace {

template <class T>
std::string message(const Result<T>& result) {
    return result ? "" : result.error().message();
}

TEST(ApiBodies, VmState) {
    EXPECT_EQ(parse_vm_state(R"({"state":"Paused"})").value(), VmStateRequest::pause);
    EXPECT_EQ(parse_vm_state(R"({"state":"Resumed"})").value(), VmStateRequest::resume);
    for (const char* body :
         {"", "{}", "[]", "null", R"({"state":"paused"})", R"({"state":1})", R"({"state":"Paused"} x)",
          R"({"state":"Paused","force":true})", R"({"state":"Paused","state":"Resumed"})", "{\"state\":\"\xff\"}"}) {
        const auto result = parse_vm_state(body);
        ASSERT_FALSE(result.has_value()) << body;
        EXPECT_EQ(result.error().kind(), ErrorKind::usage) << body;
    }
    EXPECT_NE(message(parse_vm_state(R"({"stat":"Paused"})")).find("\"stat\""), std::string::npos)
        << "names the unknown field";
}

TEST(ApiBodies, SnapshotCreate) {
    const auto plain = parse_snapshot_create(R"({"snapshot_path":"/a/b@8192"})");
    ASSERT_TRUE(plain.has_value()) << message(plain);
    EXPECT_EQ(plain->request.area, (AreaPath{"/a/b", 8192}));
    EXPECT_EQ(plain->request.then, AfterSnapshot::as_before);
    EXPECT_EQ(plain->request.metadata, "");
    EXPECT_FALSE(plain->firecracker);
    EXPECT_TRUE(plain->wait);
    EXPECT_EQ(plain->request.type, SnapshotType::automatic);
    EXPECT_EQ(parse_snapshot_create(R"({"snapshot_path":"/a","snapshot_type":"Diff","track":true})")->request.type,
              SnapshotType::diff);
    EXPECT_EQ(plain->request.release_free, std::nullopt);
    EXPECT_GE(*parse_snapshot_create(R"({"snapshot_path":"/a","release_free":true})")->request.release_free,
              1ULL << 40);
    EXPECT_EQ(parse_snapshot_create(R"({"snapshot_path":"/a","release_free":true,"release_free_max_bytes":4096})")
                  ->request.release_free,
              4096U);
    EXPECT_EQ(plain->request.mode, SnapshotMode::live);
    EXPECT_EQ(plain->request.live.staging_bytes, std::nullopt);
    EXPECT_EQ(plain->request.live.when_diverging, WhenDiverging::protect);

    const auto live =
        parse_snapshot_create(R"({"snapshot_path":"/a","mode":"precopy","max_pause_us":250,"threshold_bytes":4096,)"
                              R"("staging_bytes":0,"when_diverging":"cancel","wait":false})");
    ASSERT_TRUE(live.has_value()) << message(live);
    EXPECT_EQ(live->request.mode, SnapshotMode::precopy);
    EXPECT_EQ(live->request.live.max_pause, std::chrono::microseconds(250));
    EXPECT_EQ(live->request.live.threshold_bytes, 4096U);
    EXPECT_EQ(live->request.live.staging_bytes, 0U);
    EXPECT_EQ(live->request.live.when_diverging, WhenDiverging::cancel);
    EXPECT_FALSE(live->wait);

    const auto full =
        parse_snapshot_create(R"({"snapshot_path":"/a","mem_file_path":"/a","snapshot_type":"Full","mode":"stop",)"
                              R"("then":"stop","cache":"direct","metadata":{"a":[1, 2]}})");
    ASSERT_TRUE(full.has_value()) << message(full);
    EXPECT_TRUE(full->firecracker);
    EXPECT_EQ(full->request.then, AfterSnapshot::stop);
    EXPECT_EQ(full->request.cache, CachePolicy::direct);
    EXPECT_EQ(full->request.metadata, R"({"a":[1,2]})");
}

TEST(ApiBodies, SnapshotCreateRefusals) {
    EXPECT_NE(message(parse_snapshot_create(R"({"snapshot_path":"/a","mem_file_path":"/b"})")).find("one area"),
              std::string::npos);
    for (const char* body :
         {"{}", R"({"snapshot_path":""})", R"({"snapshot_path":7})", R"({"snapshot_path":"/a@100"})",
          R"({"snapshot_path":"/a\u0000b"})", R"({"snapshot_path":"/a","then":"explode"})",
          R"({"snapshot_path":"/a","cache":true})", R"({"snapshot_path":"/a","mode":"dead"})",
          R"({"snapshot_path":"/a","max_pause_us":-1})", R"({"snapshot_path":"/a","staging_bytes":1e30})",
          R"({"snapshot_path":"/a","release_free":"some"})", R"({"snapshot_path":"/a","release_free_max_bytes":1})",
          R"({"snapshot_path":"/a","release_free":false,"release_free_max_bytes":1})",
          R"({"snapshot_path":"/a","release_free":true,"release_free_max_bytes":-1})",
          R"({"snapshot_path":"/a","when_diverging":"pray"})", R"({"snapshot_path":"/a","version":"1"})"}) {
        EXPECT_FALSE(parse_snapshot_create(body).has_value()) << body;
    }
}

TEST(ApiBodies, MetadataHasALimitInSizeAndDepth) {
    const auto with_metadata = [](const std::string& json) {
        return parse_snapshot_create(R"({"snapshot_path":"/a","metadata":)" + json + "}");
    };
    EXPECT_TRUE(with_metadata('"' + std::string((64 << 10) - 2, 'x') + '"').has_value());
    EXPECT_FALSE(with_metadata('"' + std::string((64 << 10) - 1, 'x') + '"').has_value());
    EXPECT_TRUE(with_metadata(std::string(20, '[') + std::string(20, ']')).has_value());
    EXPECT_FALSE(with_metadata(std::string(30'000, '[') + std::string(30'000, ']')).has_value());
}

TEST(ApiBodies, SnapshotLoad) {
    const auto plain = parse_snapshot_load(R"({"snapshot_path":"/a@4096"})");
    ASSERT_TRUE(plain.has_value()) << message(plain);
    EXPECT_EQ(plain->restore.area.path, "/a");
    EXPECT_EQ(plain->restore.area.offset, 4096U);
    EXPECT_FALSE(plain->resume || plain->restore.share || plain->restore.trust_paths || plain->track);
    EXPECT_FALSE(plain->restore.max_memory_bytes.has_value());
    EXPECT_EQ(plain->restore.gap, GapMode::hidden);
    EXPECT_FALSE(plain->restore.devices.vsock_socket.has_value());
    const auto all = parse_snapshot_load(
        R"({"snapshot_path":"/a","mem_backend":{"backend_type":"File","backend_path":"/a"},"resume_vm":true,)"
        R"("share":true,"trust_paths":true,"max_mem_size_mib":64,)"
        R"("clock_realtime":true,"vsock_override":{"uds_path":"/v"},)"
        R"("drive_overrides":[{"drive_id":"root","path_on_host":"/d"}],)"
        R"("network_overrides":[{"iface_id":"eth0","host_dev_name":"tap7"}]})");
    ASSERT_TRUE(all.has_value()) << message(all);
    EXPECT_TRUE(all->resume && all->restore.share && all->restore.trust_paths);
    EXPECT_EQ(all->restore.max_memory_bytes, 64U << 20);
    EXPECT_EQ(all->restore.gap, GapMode::seen);
    const DeviceOverrides& devices = all->restore.devices;
    EXPECT_EQ(devices.vsock_socket, "/v");
    EXPECT_EQ(devices.disks, (std::map<std::string, std::string>{{"root", "/d"}}));
    EXPECT_EQ(devices.taps, (std::map<std::string, std::string>{{"eth0", "tap7"}}));
    for (const char* name : {"enable_diff_snapshots", "track_dirty_pages"}) {
        EXPECT_TRUE(parse_snapshot_load(R"({"snapshot_path":"/a",")" + std::string(name) + R"(":true})")->track);
    }
    EXPECT_TRUE(parse_snapshot_load(R"({"snapshot_path":"/a","mem_file_path":"/a"})").has_value());
}

TEST(ApiBodies, SnapshotLoadRefuses) {
    for (const char* rest :
         {R"("max_mem_size_mib":"64M")",
          R"("trust_paths":1)",
          R"("share":1)",
          R"("resume_vm":1)",
          R"("resume":true)",
          R"("clock_realtime":"yes")",
          R"("track_dirty_pages":1)",
          R"("mem_file_path":"/b")",
          R"("mem_file_path":1)",
          R"("mem_backend":"/a")",
          R"("mem_backend":{"backend_type":"Uffd","backend_path":"/a"})",
          R"("mem_backend":{"backend_path":"/a"})",
          R"("mem_backend":{"backend_type":"File","backend_path":"/b"})",
          R"("network_overrides":{})",
          R"("network_overrides":[1])",
          R"("network_overrides":[{"iface_id":"eth0"}])",
          R"("network_overrides":[{"iface_id":"eth0","host_dev_name":"t","mtu":"9"}])",
          R"("vsock_override":{})",
          R"("drive_overrides":{"drive_id":"a","path_on_host":"/a"})",
          R"("drive_overrides":[{"drive_id":"a"}])",
          R"("drive_overrides":[{"drive_id":"a","path_on_host":"/a"},{"drive_id":"a","path_on_host":"/b"}])",
          R"("vsock_override":{"uds_path":1})",
          R"("vsock_override":{"uds_path":"/v","cid":"3"})"}) {
        EXPECT_FALSE(parse_snapshot_load(R"({"snapshot_path":"/a",)" + std::string(rest) + "}").has_value()) << rest;
    }
    EXPECT_FALSE(parse_snapshot_load(R"({"mem_file_path":"/a"})").has_value());
}

TEST(ApiBodies, Stop) {
    EXPECT_FALSE(parse_stop("")->force);
    EXPECT_EQ(parse_stop("{}")->timeout, std::chrono::seconds(5));
    EXPECT_TRUE(parse_stop(R"({"force":true,"timeout_ms":0})")->force);
    EXPECT_EQ(parse_stop(R"({"timeout_ms":250})")->timeout, std::chrono::milliseconds(250));
    for (const char* body : {R"({"timeout_ms":-1})", R"({"timeout_ms":1.5})", R"({"timeout_ms":18446744073709551615})",
                             R"({"timeout_ms":86400001})", R"({"force":"yes"})", R"({"forced":true})"}) {
        EXPECT_FALSE(parse_stop(body).has_value()) << body;
    }
}

TEST(ApiBodies, DriveSize) {
    const auto resize = parse_drive_size(R"({"drive_id":"root","size_bytes":2147483648})");
    ASSERT_TRUE(resize.has_value()) << resize.error().message();
    EXPECT_EQ(resize->id, "root");
    EXPECT_EQ(resize->bytes, 2147483648U);
    EXPECT_EQ(parse_drive_size(R"({"drive_id":"root"})")->bytes, std::nullopt);
    EXPECT_NE(message(parse_drive_size(R"({"size_bytes":1})")).find("drive_id"), std::string::npos);
    EXPECT_NE(message(parse_drive_size(R"({"drive_id":"root","size_bytes":-1})")).find("size_bytes"),
              std::string::npos);
}

TEST(ApiBodies, WaitQuery) {
    EXPECT_EQ(parse_wait("for=ready")->what, WaitFor::ready);
    EXPECT_EQ(parse_wait("for=ready")->timeout, std::chrono::seconds(30));
    EXPECT_EQ(parse_wait("for=exit&timeout_ms=10")->timeout, std::chrono::milliseconds(10));
    const std::string pattern = "a+b &c=%d?\xc3\xa4";
    const auto serial = parse_wait("regex=" + percent_encode(pattern) + "&for=serial");
    ASSERT_TRUE(serial.has_value()) << message(serial);
    EXPECT_EQ(serial->regex, pattern);
    for (const char* query :
         {"", "for=", "for=never", "for=ready&regex=x", "for=serial", "for=serial&regex=(", "for=serial&regex=%2",
          "for=serial&regex=%zz", "for=ready&for=exit", "for=exit&timeout_ms=", "for=exit&timeout_ms=1s",
          "for=exit&timeout_ms=99999999999999999999", "for=exit&quick", "for=serial&regex=(a)%5C1"}) {
        EXPECT_FALSE(parse_wait(query).has_value()) << query;
    }
}

// The file and the parsers know the same fields.
TEST(ApiBodies, EveryDocumentedFieldIsKnown) {
    const auto api = test::load_openapi();
    const auto check = [&](const char* schema, auto parse) {
        for (const auto& [name, unused] : api["components"]["schemas"][schema]["properties"].items()) {
            const std::string why = message(parse(nlohmann::json{{name, 1}}.dump()));
            EXPECT_EQ(why.find("unknown field"), std::string::npos) << schema << "." << name << ": " << why;
        }
        EXPECT_NE(message(parse(R"({"surely_not_a_field":1})")).find("unknown field"), std::string::npos);
    };
    check("Vm", parse_vm_state);
    check("SnapshotCreateParams", parse_snapshot_create);
    check("SnapshotLoadParams", parse_snapshot_load);
    check("StopParams", parse_stop);
    check("DriveSize", parse_drive_size);
}

}  // namespace
}  // namespace snapvm::api
