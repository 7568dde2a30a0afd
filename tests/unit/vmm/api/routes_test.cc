// SPDX-License-Identifier: Apache-2.0
// openapi.json against the route table, and against what a running server answers.
#include <set>

#include "snapshot/report/inspect.h"
#include "tests/unit/vmm/api/fake_service.h"
#include "tests/unit/vmm/api/schema_check.h"
#include "vmm/api/answers.h"
#include "vmm/api/routes.h"

namespace snapvm::api::test {
namespace {

std::string lower(std::string_view text) {
    std::string out(text);
    std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return out;
}

TEST(ApiRoutes, TableAndDocumentNameTheSame) {
    std::set<std::string> table;
    for (const Route& route : routes()) {
        EXPECT_TRUE(table.insert(lower(route.method) + " " + std::string(route.path)).second)
            << route.path << " is there twice";
    }
    std::set<std::string> document;
    const auto api = load_openapi();
    for (const auto& [path, methods] : api["paths"].items()) {
        for (const auto& [method, unused] : methods.items()) {
            document.insert(method + " " + path);
        }
    }
    EXPECT_EQ(table, document);
}

constexpr ServiceState kStates[] = {ServiceState::not_started, ServiceState::running, ServiceState::paused,
                                    ServiceState::ended};

TEST(ApiRoutes, TableAndDocumentNameTheSameStates) {
    const auto api = load_openapi();
    for (const Route& route : routes()) {
        auto states = nlohmann::json::array();
        for (const ServiceState state : kStates) {
            if (route.states.has(state)) {
                states.push_back(name_of(state));
            }
        }
        EXPECT_EQ(api["paths"][std::string(route.path)][lower(route.method)]["x-states"], states) << route.path;
    }
}

TEST(ApiRoutes, EveryReferenceInTheDocumentResolves) {
    const auto api = load_openapi();
    const std::function<void(const nlohmann::json&)> walk = [&](const nlohmann::json& node) {
        if (node.is_object() && node.contains("$ref")) {
            EXPECT_NO_THROW((void)resolve(api, node)) << node;
        }
        for (const auto& part : node) {
            if (part.is_structured()) {
                walk(part);
            }
        }
    };
    walk(api);
}

using ApiContract = ServerTest;

// Every route, asked so that it succeeds and so that it fails; each answer must be one the document
// describes.
TEST_F(ApiContract, AnswersAreAsDocumented) {
    const auto api = load_openapi();
    start();
    service.ready = true;
    service.print("hello\n");
    struct Case {
        const char* method;
        const char* target;
        const char* body;
        unsigned status;
    };
    const Case cases[] = {
        {"GET", "/", "", 200},
        {"GET", "/version", "", 200},
        {"GET", "/machine-config", "", 200},
        {"GET", "/vm/config", "", 200},
        {"GET", "/stats", "", 200},
        {"PATCH", "/vm", R"({"state":"Paused"})", 204},
        {"PATCH", "/vm", R"({"state":"Stopped"})", 400},
        {"PATCH", "/vm", "{", 400},
        {"PATCH", "/vm", R"({"state":"Resumed"})", 204},
        {"PUT", "/snapshot/create", R"({"snapshot_path":"/x"})", 200},
        {"PUT", "/snapshot/create", R"({"snapshot_path":"/x","mem_file_path":"/x"})", 204},
        {"PUT", "/snapshot/create", R"({"snapshot_path":"/busy"})", 400},
        {"PUT", "/snapshot/create", R"({"snapshot_path":"/full"})", 500},
        {"PUT", "/snapshot/create", "{}", 400},
        {"PUT", "/snapshot/create", R"({"snapshot_path":"/x","wait":false})", 202},
        {"PUT", "/snapshot/create", R"({"snapshot_path":"/busy","wait":false})", 400},
        {"GET", "/snapshot/status", "", 200},
        {"PUT", "/snapshot/cancel", "", 204},
        {"PUT", "/snapshot/detach", "", 200},
        {"PUT", "/drives/layers", R"({"drive_id":"root","tag":"t"})", 200},
        {"PUT", "/drives/layers", R"({"drive_id":"none","tag":"t"})", 400},
        {"PUT", "/drives/layers", R"({"drive_id":"root"})", 400},
        {"PUT", "/snapshot/load", R"({"snapshot_path":"/x"})", 400},
        {"PUT", "/snapshot/load", "{}", 400},
        {"GET", "/balloon", "", 200},
        {"PATCH", "/balloon", R"({"amount_mib":16})", 204},
        {"PATCH", "/balloon", "{}", 400},
        {"PATCH", "/balloon", R"({"amount_mib":-1})", 400},
        {"GET", "/balloon/statistics", "", 200},
        {"PATCH", "/balloon/statistics", R"({"stats_polling_interval_s":5})", 204},
        {"PATCH", "/balloon/statistics", "{}", 400},
        {"PATCH", "/balloon/statistics", R"({"stats_polling_interval_s":65536})", 400},
        {"GET", "/wait?for=ready", "", 200},
        {"GET", "/wait?for=serial&regex=hel", "", 200},
        {"GET", "/wait?for=serial&regex=(", "", 400},
        {"GET", "/wait?for=serial&regex=never&timeout_ms=10", "", 408},
        {"GET", "/wait?for=exit&timeout_ms=0", "", 408},
        {"GET", "/wait", "", 400},
        {"GET", "/console", "", 400},
        {"PUT", "/drives/size", R"({"drive_id":"root","size_bytes":2097152})", 200},
        {"PUT", "/drives/size", R"({"drive_id":"root"})", 200},
        {"PUT", "/drives/size", R"({"drive_id":"none","size_bytes":2097152})", 400},
        {"PUT", "/drives/size", R"({"size_bytes":2097152})", 400},
        {"PUT", "/console/size", R"({"columns":80,"rows":25})", 204},
        {"PUT", "/console/size", R"({"columns":80})", 400},
        {"PUT", "/console/size", R"({"columns":65536,"rows":25})", 400},
        {"PUT", "/stop", R"({"force":1})", 400},
        {"PUT", "/stop", R"({"force":true})", 200},
        {"PUT", "/stop", "", 200},
        {"GET", "/wait?for=exit", "", 200},
        {"GET", "/", "", 200},
        {"GET", "/stats", "", 200},
        {"PATCH", "/vm", R"({"state":"Paused"})", 400},
    };
    std::set<std::string> asked;
    for (const Case& c : cases) {
        const ApiReply reply = ask(c.method, c.target, c.body);
        const std::string path = std::string(c.target).substr(0, std::string_view(c.target).find('?'));
        EXPECT_EQ(reply.status, c.status) << c.method << " " << c.target << " " << c.body << ": " << reply.body;
        EXPECT_EQ(answer_mismatch(api, path, lower(c.method), reply.status, reply.body), "")
            << c.method << " " << c.target << " " << c.body;
        asked.insert(lower(c.method) + " " + path);
    }
    EXPECT_EQ(asked.size(), routes().size()) << "a route without a case";
}

// A request with a body that its route takes.
ApiAnswer ask_route(const Route& route, Service& service) {
    std::string_view body;
    if (route.path == "/vm") {
        body = R"({"state":"Paused"})";
    } else if (route.path.starts_with("/snapshot/")) {
        body = R"({"snapshot_path":"/x"})";
    } else if (route.path == "/balloon") {
        body = R"({"amount_mib":16})";
    } else if (route.path == "/balloon/statistics") {
        body = R"({"stats_polling_interval_s":5})";
    } else if (route.path == "/drives/layers") {
        body = R"({"drive_id":"root","tag":"t"})";
    } else if (route.path == "/drives/size") {
        body = R"({"drive_id":"root"})";
    } else if (route.path == "/console/size") {
        body = R"({"columns":80,"rows":25})";
    }
    std::string target(route.path);
    if (target == "/wait") {
        target += "?for=ready";
    }
    return answer_request(
        service, {.method = route.method, .target = target, .body = body, .upgrade = kConsoleProtocol, .given_up = [] {
                      return false;
                  }});
}

TEST(ApiStates, ARouteIsValidInItsStatesOnly) {
    const std::string lines[] = {
        "the instance has no machine yet; load one with PUT /snapshot/load",
        "this process has a machine already, and a snapshot is loaded into a new one; use snapvm restore",
        "this process has a machine already, and a snapshot is loaded into a new one; use snapvm restore",
        "the machine has ended (exit)"};
    for (const Route& route : routes()) {
        for (std::size_t i = 0; i < std::size(kStates); ++i) {
            FakeService service;
            service.ready = true;
            service.set_state(kStates[i]);
            const ApiAnswer answer = ask_route(route, service);
            const std::string what = std::string(route.method) + " " + std::string(route.path) + ", " + lines[i];
            if (route.states.has(kStates[i])) {
                EXPECT_TRUE(answer.status / 100 == 2 || answer.status == 101) << what << ": " << answer.body;
            } else {
                EXPECT_EQ(answer.status, 400U) << what;
                EXPECT_EQ(answer.body, fault_json(lines[i])) << what;
                EXPECT_EQ(service.state(), kStates[i]) << what;
            }
        }
    }
}

TEST_F(ApiContract, ASnapshotIsLoadedIntoAnInstanceWithoutMachine) {
    const auto api = load_openapi();
    service.set_state(ServiceState::not_started);
    start();
    const auto load = [&](const std::string& body, unsigned status) {
        const ApiReply reply = ask("PUT", "/snapshot/load", body);
        EXPECT_EQ(reply.status, status) << body << ": " << reply.body;
        EXPECT_EQ(answer_mismatch(api, "/snapshot/load", "put", reply.status, reply.body), "");
    };
    load("{}", 400);
    load(R"({"snapshot_path":"/missing"})", 400);
    EXPECT_EQ(service.state(), ServiceState::not_started);
    load(R"({"snapshot_path":"/x","mem_file_path":"/x","enable_diff_snapshots":true})", 204);
    EXPECT_EQ(service.last_load.restore.area.path, "/x");
    EXPECT_TRUE(service.last_load.track);
    EXPECT_EQ(service.state(), ServiceState::paused);
    load(R"({"snapshot_path":"/x"})", 400);
    service.set_state(ServiceState::not_started);
    load(R"({"snapshot_path":"/x","resume_vm":true})", 204);
    EXPECT_EQ(service.state(), ServiceState::running);
}

TEST_F(ApiContract, SnapshotResultHasTheFieldsOfTheDesign) {
    const auto fields = nlohmann::json::parse(to_json(SnapshotReport{}));
    for (const char* name : {"pause_us", "total_us", "rounds", "pages", "area_bytes", "written_bytes",
                             "staging_peak_bytes", "tracker", "type", "diverged"}) {
        EXPECT_TRUE(fields.contains(name)) << name;
    }
    for (const char* name : {"absent", "balloon", "free", "zero", "shared", "swapped", "common"}) {
        EXPECT_TRUE(fields["pages"].contains(name)) << name;
    }
}

TEST_F(ApiContract, StatsHoldTheLastSnapshotOnceThereIsOne) {
    start();
    service.no_snapshot = true;
    EXPECT_FALSE(nlohmann::json::parse(ask("GET", "/stats").body).contains("snapshot"));
    service.no_snapshot = false;
    const auto stats = nlohmann::json::parse(ask("GET", "/stats").body);
    EXPECT_EQ(stats["snapshot"]["pages"]["shared"], 5);
    EXPECT_EQ(stats["snapshot"], nlohmann::json::parse(to_json(*service.stats().snapshot)));
}

TEST_F(ApiContract, TheBalloonIsFirecrackers) {
    start();
    EXPECT_EQ(ask("PATCH", "/balloon", R"({"amount_mib":16})").status, 204U);
    EXPECT_EQ(nlohmann::json::parse(ask("GET", "/balloon").body)["amount_mib"], 16);
    const auto statistics = nlohmann::json::parse(ask("GET", "/balloon/statistics").body);
    EXPECT_EQ(statistics["target_pages"], 4096);
    EXPECT_EQ(statistics["actual_mib"], 32);
    EXPECT_EQ(statistics["free_memory"], 5);
    EXPECT_FALSE(statistics.contains("swap_in"));
    EXPECT_EQ(nlohmann::json::parse(ask("GET", "/balloon").body)["stats_polling_interval_s"], 0);
    EXPECT_EQ(ask("PATCH", "/balloon/statistics", R"({"stats_polling_interval_s":3})").status, 204U);
    EXPECT_EQ(nlohmann::json::parse(ask("GET", "/balloon").body)["stats_polling_interval_s"], 3);
    service.no_balloon = true;
    EXPECT_EQ(ask("GET", "/balloon").status, 400U);
    EXPECT_EQ(ask("GET", "/balloon/statistics").status, 400U);
    EXPECT_EQ(ask("PATCH", "/balloon/statistics", R"({"stats_polling_interval_s":3})").status, 400U);
}

TEST_F(ApiContract, DrivesAreFirecrackers) {
    start();
    EXPECT_EQ(nlohmann::json::parse(ask("GET", "/vm/config").body)["drives"],
              (nlohmann::json{{{"drive_id", "root"},
                               {"path_on_host", "/vm/root.ext4"},
                               {"is_root_device", false},
                               {"is_read_only", true},
                               {"format", "raw"},
                               {"werror", "report"},
                               {"ephemeral", "off"},
                               {"size_bytes", FakeService::kDiskBytes}}}));
}

TEST_F(ApiContract, AMachineSaysWhyItHasPausedItself) {
    service.set_pause_reason("disk root: no space is left");
    service.set_state(ServiceState::paused);
    start();
    for (const char* path : {"/", "/stats"}) {
        const auto answer = nlohmann::json::parse(ask("GET", path).body);
        EXPECT_EQ(answer["state"], "Paused");
        EXPECT_EQ(answer["pause_reason"], "disk root: no space is left");
    }
}

TEST_F(ApiContract, TheConfigurationHasEveryDevice) {
    start();
    const auto config = nlohmann::json::parse(ask("GET", "/vm/config").body);
    EXPECT_EQ(config["vsock"], (nlohmann::json{{"guest_cid", 3}, {"uds_path", "/vm/v"}}));
    EXPECT_EQ(config["balloon"]["amount_mib"], 16);
    EXPECT_TRUE(config.contains("entropy"));
    EXPECT_FALSE(config.contains("console"));
}

TEST_F(ApiContract, NetworkInterfacesAreFirecrackers) {
    start();
    const auto config = nlohmann::json::parse(ask("GET", "/vm/config").body)["network-interfaces"];
    EXPECT_EQ(config,
              (nlohmann::json{{{"iface_id", "eth0"}, {"host_dev_name", "tap0"}, {"guest_mac", "02:00:00:00:ab:01"}}}));
    const auto stats = nlohmann::json::parse(ask("GET", "/stats").body)["network_interfaces"][0];
    EXPECT_EQ(stats["id"], "eth0");
    EXPECT_EQ(stats["link_up"], true);
    EXPECT_EQ(stats["received_frames"], 3);
}

TEST_F(ApiContract, UnknownPathsAndMethods) {
    start();
    EXPECT_EQ(ask("GET", "/nothing").status, 404U);
    EXPECT_EQ(ask("GET", "/vm/").status, 404U);
    EXPECT_EQ(ask("GET", "/statsx").status, 404U);
    const ApiReply wrong = ask("POST", "/snapshot/create", "{}");
    EXPECT_EQ(wrong.status, 405U);
    EXPECT_EQ(wrong.allow, "PUT");
    EXPECT_NE(wrong.fault().find("PUT"), std::string::npos);
    EXPECT_EQ(ask("BREW", "/vm").status, 405U);
    EXPECT_EQ(ask("DELETE", "/").status, 405U);
}

TEST_F(ApiContract, ArgumentsArriveAtTheService) {
    start();
    EXPECT_EQ(
        ask("PUT", "/snapshot/create", R"({"snapshot_path":"/x@4K","then":"pause","metadata":{"k":"\u00e4"}})").status,
        200U);
    EXPECT_EQ(service.last_snapshot.area, (AreaPath{"/x", 4096}));
    EXPECT_EQ(service.last_snapshot.then, AfterSnapshot::pause);
    EXPECT_EQ(service.last_snapshot.metadata, "{\"k\":\"\xc3\xa4\"}");
    EXPECT_EQ(nlohmann::json::parse(ask("GET", "/").body)["state"], "Running");
    EXPECT_EQ(ask("PATCH", "/vm", R"({"state":"Paused"})").status, 204U);
    EXPECT_EQ(nlohmann::json::parse(ask("GET", "/").body)["state"], "Paused");
}

TEST_F(ApiContract, BytesThatAreNotTextStillMakeJson) {
    service.config_.cmdline = "bad \xff\xfe bytes";
    service.print("odd \x80 line\n");
    start();
    EXPECT_FALSE(nlohmann::json::parse(ask("GET", "/vm/config").body, nullptr, false).is_discarded());
    EXPECT_FALSE(nlohmann::json::parse(ask("GET", "/wait?for=serial&regex=odd").body, nullptr, false).is_discarded());
}

TEST(ApiFaults, WhatTheCallerCanMendIs400) {
    const auto status = [](const Error& error) { return fault_answer(error).status; };
    EXPECT_EQ(status(Error(ErrorKind::usage, "x")), 400U);
    EXPECT_EQ(status(Error(ErrorKind::busy, "x")), 400U);
    EXPECT_EQ(status(Error::system("open", "/x", ENOENT)), 400U);
    EXPECT_EQ(status(Error::system("open", "/x", EACCES)), 400U);
    EXPECT_EQ(status(Error::system("write", "/x", EIO)), 500U);
    EXPECT_EQ(status(Error::system("write", "/x", ENOSPC)), 500U);
}

}  // namespace
}  // namespace snapvm::api::test
