// SPDX-License-Identifier: Apache-2.0
// The doctor on this host. Its claims are compared with what the test finds out by itself.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "tests/support/paths.h"
#include "tests/support/require_kvm.h"
#include "vmm/doctor/probe.h"
#include "vmm/doctor/report.h"

namespace snapvm::doctor {
namespace {

TEST(Doctor, MeasuresThisKvm) {
    SNAPVM_REQUIRE_KVM();
    const auto facts = probe_kvm();
    ASSERT_TRUE(facts) << facts.error().message();
    EXPECT_GT(facts->create_vm_us, 0);
    EXPECT_GT(facts->exit_us, 0);
    ASSERT_TRUE(facts->kernel_instruction_ns.has_value());
    EXPECT_GT(*facts->kernel_instruction_ns, 0);
    EXPECT_EQ(facts->kernel_emulated, *facts->kernel_instruction_ns > kEmulatedInstructionNs);
    EXPECT_GT(facts->capabilities.max_vcpus, 0);
}

TEST(Doctor, WholeHostInJson) {
    SNAPVM_REQUIRE_KVM();
    const auto facts = probe_host();
    ASSERT_TRUE(facts) << facts.error().message();
    EXPECT_EQ(facts->system.root, ::geteuid() == 0);
    EXPECT_GT(facts->memory.total, facts->memory.available);
    EXPECT_GT(facts->memory.available, 0U);
    EXPECT_GE(facts->system.cpus, 1U);
    EXPECT_FALSE(facts->cgroup.version.empty());
    const auto json = nlohmann::json::parse(facts_json(*facts, true));
    EXPECT_EQ(json["kvm"]["kernel_emulated"], facts->kvm.kernel_emulated);
}

TEST(Doctor, UserfaultfdForKernelFaultsIsNotClaimedWithoutTheRight) {
    const UserfaultfdFacts facts = probe_userfaultfd();
    if (::geteuid() == 0 && facts.available) {
        EXPECT_EQ(facts.kernel_faults, "system call");
    } else if (facts.sysctl == 0 && ::access("/dev/userfaultfd", R_OK | W_OK) != 0) {
        EXPECT_EQ(facts.kernel_faults, "");
    }
}

TEST(Doctor, CommandPrintsJson) {
    SNAPVM_REQUIRE_KVM();
    FILE* pipe = ::popen((test::snapvm_program() + " doctor --json").c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::string text;
    char buffer[4096];
    for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
        text.append(buffer, got);
    }
    const int status = ::pclose(pipe);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(json.is_object()) << text;
    EXPECT_TRUE(json["advice"].is_array());
}

}  // namespace
}  // namespace snapvm::doctor
