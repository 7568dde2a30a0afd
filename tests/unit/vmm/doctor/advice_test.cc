// SPDX-License-Identifier: Apache-2.0
// One line of advice for each thing missing, none for what is fine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "vmm/doctor/advice.h"
#include "vmm/doctor/report.h"

namespace snapvm::doctor {
namespace {

// A bare-metal host with all there is.
HostFacts good_host() {
    HostFacts facts;
    facts.system = {.kernel = "6.8.0", .cpu_model = "A CPU", .cpus = 16, .root = false, .hypervisor = false};
    kvm::Capabilities& caps = facts.kvm.capabilities;
    caps.tsc_control = 1;
    caps.dirty_ring = 65536 * 16;
    caps.manual_dirty_log = 3;
    caps.xsave2 = 4096;
    facts.kvm.create_vm_us = 200;
    facts.kvm.kernel_instruction_ns = 0.3;
    facts.kvm.tsc_settable = true;
    facts.kvm.tsc_khz = 2'600'000;
    facts.kvm.nx_huge_pages = "N";
    facts.userfaultfd = {.available = true,
                         .missing = true,
                         .minor = true,
                         .write_protect = true,
                         .protect_unpopulated = true,
                         .kernel_faults = "system call",
                         .sysctl = 1};
    facts.io_uring = {.error = 0, .sysctl = 0};
    facts.huge_pages = {.enabled = "madvise", .defrag = "madvise", .shmem_enabled = "advise", .reserved = 0};
    facts.cgroup.version = "v2";
    facts.memory = {.total = 64ULL << 30,
                    .available = 32ULL << 30,
                    .swap = 0,
                    .overcommit = 0,
                    .max_map_count = 65530,
                    .locked_limit = 8U << 20,
                    .open_files = 1024};
    return facts;
}

std::vector<std::string> topics(const HostFacts& facts) {
    std::vector<std::string> found;
    for (const Advice& advice : advise(facts)) {
        EXPECT_FALSE(advice.text.empty());
        EXPECT_EQ(advice.text.find('\n'), std::string::npos) << advice.text;
        found.push_back(advice.topic);
    }
    return found;
}

std::string only_advice(const HostFacts& facts) {
    const auto advice = advise(facts);
    EXPECT_EQ(advice.size(), 1U);
    return advice.empty() ? std::string() : advice.front().text;
}

TEST(DoctorAdvice, NoneForAGoodHost) { EXPECT_TRUE(topics(good_host()).empty()); }

TEST(DoctorAdvice, EachThingMissingHasItsOwn) {
    using Change = void (*)(HostFacts&);
    const std::pair<const char*, Change> cases[] = {
        {"kernel_emulated", [](HostFacts& f) { f.kvm.kernel_emulated = true; }},
        {"tsc_settable", [](HostFacts& f) { f.kvm.tsc_settable = false; }},
        {"tsc_control", [](HostFacts& f) { f.kvm.capabilities.tsc_control = 0; }},
        {"dirty_ring", [](HostFacts& f) { f.kvm.capabilities.dirty_ring = 0; }},
        {"manual_dirty_log", [](HostFacts& f) { f.kvm.capabilities.manual_dirty_log = 0; }},
        {"xsave2", [](HostFacts& f) { f.kvm.capabilities.xsave2 = 0; }},
        {"create_vm_us", [](HostFacts& f) { f.kvm.create_vm_us = 27'000; }},
        {"userfaultfd", [](HostFacts& f) { f.userfaultfd = {}; }},
        {"userfaultfd", [](HostFacts& f) { f.userfaultfd.kernel_faults.clear(); }},
        {"userfaultfd.minor", [](HostFacts& f) { f.userfaultfd.minor = false; }},
        {"userfaultfd.write_protect", [](HostFacts& f) { f.userfaultfd.write_protect = false; }},
        {"userfaultfd.protect_unpopulated", [](HostFacts& f) { f.userfaultfd.protect_unpopulated = false; }},
        {"io_uring", [](HostFacts& f) { f.io_uring.error = EPERM; }},
        {"huge_pages.enabled", [](HostFacts& f) { f.huge_pages.enabled = "never"; }},
        {"huge_pages.enabled", [](HostFacts& f) { f.huge_pages.enabled.clear(); }},
        {"huge_pages.shmem_enabled", [](HostFacts& f) { f.huge_pages.shmem_enabled = "never"; }},
        {"cgroup.cpu_limit", [](HostFacts& f) { f.cgroup.cpu_limit = 1.5; }},
        {"cgroup.memory_limit", [](HostFacts& f) { f.cgroup.memory_limit = 128U << 20; }},
        {"memory.available", [](HostFacts& f) { f.memory.available = 100U << 20; }},
        {"memory.overcommit", [](HostFacts& f) { f.memory.overcommit = 2; }},
        {"memory.max_map_count", [](HostFacts& f) { f.memory.max_map_count = 4096; }},
        {"memory.open_files", [](HostFacts& f) { f.memory.open_files = 256; }},
    };
    for (const auto& [topic, change] : cases) {
        HostFacts facts = good_host();
        change(facts);
        EXPECT_EQ(topics(facts), std::vector<std::string>{topic});
    }
}

TEST(DoctorAdvice, WhatIsUnknownIsNotZero) {
    HostFacts facts = good_host();  // in a root without /proc
    const std::uint64_t open_files = facts.memory.open_files;
    facts.memory = {};
    facts.memory.open_files = open_files;
    facts.huge_pages.reserved.reset();
    facts.cgroup.version.clear();
    EXPECT_TRUE(topics(facts).empty());
    const std::string table = facts_table(facts);
    for (const char* line : {"unknown of unknown available, swap unknown, overcommit unknown", "mappings unknown",
                             "reserved unknown", "cgroup                  unknown"}) {
        EXPECT_NE(table.find(line), std::string::npos) << line << " in " << table;
    }
}

TEST(DoctorAdvice, LimitsAboveWhatIsThereAreFine) {
    HostFacts facts = good_host();
    facts.cgroup.cpu_limit = 16;
    facts.cgroup.memory_limit = 8ULL << 30;
    // an affected processor's protection: not to be advised away while creation is quick
    facts.kvm.nx_huge_pages = "Y";
    EXPECT_TRUE(topics(facts).empty());
}

TEST(DoctorAdvice, SlowCreationNamesTheRemedyThatIsLeft) {
    HostFacts facts = good_host();
    facts.kvm.create_vm_us = 27'300;
    EXPECT_NE(only_advice(facts).find("27.3 ms"), std::string::npos);
    EXPECT_NE(only_advice(facts).find("favordynmods"), std::string::npos);
    facts.cgroup.version = "v1";
    EXPECT_EQ(only_advice(facts).find("favordynmods"), std::string::npos);
    EXPECT_NE(only_advice(facts).find("nx_huge_pages=never"), std::string::npos);
    facts.kvm.nx_huge_pages = "never";
    EXPECT_EQ(only_advice(facts).find("nx_huge_pages"), std::string::npos);
    facts.kvm.nx_huge_pages = "N";
    facts.cgroup.favordynmods = true;
    EXPECT_EQ(only_advice(facts).find("nx_huge_pages"), std::string::npos);
}

TEST(DoctorAdvice, IoUringByItsError) {
    HostFacts facts = good_host();
    facts.io_uring = {.error = EPERM, .sysctl = 2};
    EXPECT_NE(only_advice(facts).find("io_uring_disabled"), std::string::npos);
    facts.io_uring = {.error = EPERM, .sysctl = -1};
    EXPECT_NE(only_advice(facts).find("seccomp"), std::string::npos);
    facts.io_uring.error = ENOMEM;
    EXPECT_NE(only_advice(facts).find("8M"), std::string::npos);
}

TEST(DoctorAdvice, EmulationInAVirtualMachineIsForTheOuterHost) {
    HostFacts facts = good_host();
    facts.kvm.kernel_emulated = true;
    EXPECT_NE(only_advice(facts).find("firmware"), std::string::npos);
    facts.system.hypervisor = true;
    EXPECT_NE(only_advice(facts).find("nested"), std::string::npos);
}

TEST(DoctorReport, JsonIsOneLineWithFactsAndAdvice) {
    HostFacts facts = good_host();
    facts.io_uring.error = EPERM;
    facts.system.cpu_model = "bytes that are no text: \xff";
    const std::string plain = facts_json(facts);
    EXPECT_EQ(plain.find('\n'), std::string::npos);
    const auto json = nlohmann::json::parse(plain);
    EXPECT_FALSE(json.contains("advice"));
    EXPECT_EQ(json["kvm"]["capabilities"]["dirty_ring_entries"], 65536);
    EXPECT_EQ(json["kvm"]["api_version"], 12);
    EXPECT_EQ(json["io_uring"]["available"], false);
    EXPECT_TRUE(json["cgroup"]["cpu_limit"].is_null());
    const auto advised = nlohmann::json::parse(facts_json(facts, true));
    ASSERT_EQ(advised["advice"].size(), 1U);
    EXPECT_EQ(advised["advice"][0]["topic"], "io_uring");
}

TEST(DoctorReport, WhatCannotBeMeasuredIsNoNumber) {
    HostFacts facts = good_host();
    EXPECT_NE(facts_table(facts).find("0.30 ns an instruction, native"), std::string::npos);
    EXPECT_EQ(nlohmann::json::parse(facts_json(facts))["kvm"]["kernel_instruction_ns"], 0.3);
    facts.kvm.kernel_instruction_ns.reset();
    EXPECT_NE(facts_table(facts).find("not measured"), std::string::npos);
    EXPECT_TRUE(nlohmann::json::parse(facts_json(facts))["kvm"]["kernel_instruction_ns"].is_null());
}

TEST(DoctorReport, TableHasALineForEachAdvice) {
    HostFacts facts = good_host();
    EXPECT_EQ(facts_table(facts).find("advice:"), std::string::npos);
    facts.huge_pages.enabled = "never";
    facts.userfaultfd = {};
    const std::string table = facts_table(facts);
    std::size_t lines = 0;
    for (std::size_t at = table.find("advice: "); at != std::string::npos; at = table.find("advice: ", at + 1)) {
        ++lines;
    }
    EXPECT_EQ(lines, 2U);
    EXPECT_EQ(table.back(), '\n');
}

}  // namespace
}  // namespace snapvm::doctor
