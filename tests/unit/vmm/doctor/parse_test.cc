// SPDX-License-Identifier: Apache-2.0
// The doctor's reading of /proc and /sys, on texts of several hosts.
#include <gtest/gtest.h>

#include "vmm/doctor/parse.h"

namespace snapvm::doctor {
namespace {

constexpr std::string_view kUnified =
    "sysfs /sys sysfs rw,nosuid 0 0\n"
    "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate,favordynmods,memory_recursiveprot 0 0\n";
constexpr std::string_view kHybrid =
    "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
    "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n"
    "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
    "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

TEST(DoctorParse, ChosenWordIsTheOneInBrackets) {
    EXPECT_EQ(chosen_word("always [madvise] never\n"), "madvise");
    EXPECT_EQ(chosen_word("always within_size advise [never] deny force\n"), "never");
    EXPECT_EQ(chosen_word("Y\n"), "Y");
    EXPECT_EQ(chosen_word(""), "");
    EXPECT_EQ(chosen_word("] odd [\n"), "] odd [");
}

TEST(DoctorParse, NumbersAndNothingElse) {
    EXPECT_EQ(parse_number(" 65530\n"), 65530U);
    EXPECT_EQ(parse_number("0"), 0U);
    EXPECT_FALSE(parse_number("max\n"));
    EXPECT_FALSE(parse_number("-1"));
    EXPECT_FALSE(parse_number("12 13"));
    EXPECT_FALSE(parse_number("99999999999999999999"));
    EXPECT_FALSE(parse_number(""));
}

TEST(DoctorParse, MeminfoIsInBytesButForCounts) {
    constexpr std::string_view text = "MemTotal:       24669068 kB\nMemAvailable:   23 kB\nHugePages_Total:       5\n";
    EXPECT_EQ(meminfo_value(text, "MemTotal"), 24669068ULL * 1024);
    EXPECT_EQ(meminfo_value(text, "MemAvailable"), 23U * 1024);
    EXPECT_EQ(meminfo_value(text, "HugePages_Total"), 5U);
    EXPECT_FALSE(meminfo_value(text, "Mem"));
    EXPECT_FALSE(meminfo_value("", "MemTotal"));
}

TEST(DoctorParse, CpuinfoOfTheFirstProcessor) {
    constexpr std::string_view text =
        "processor\t: 0\nmodel\t\t: 17\nmodel name\t: One: a CPU\n\nprocessor\t: 1\nmodel name\t: Two\n";
    EXPECT_EQ(cpuinfo_value(text, "model name"), "One: a CPU");
    EXPECT_EQ(cpuinfo_value(text, "model"), "17");
    EXPECT_EQ(cpuinfo_value(text, "flags"), "");
}

TEST(DoctorParse, UnifiedHierarchyAndItsOption) {
    const auto mount = find_cgroup_v2(kUnified);
    ASSERT_TRUE(mount);
    EXPECT_EQ(mount->path, "/sys/fs/cgroup");
    EXPECT_TRUE(mount->version_2);
    EXPECT_TRUE(mount->favordynmods);
    EXPECT_FALSE(find_cgroup_v1(kUnified, "cpu"));
}

TEST(DoctorParse, HybridFindsTheControllerAndNotOneThatSoundsAlike) {
    const auto cpu = find_cgroup_v1(kHybrid, "cpu");
    ASSERT_TRUE(cpu);
    EXPECT_EQ(cpu->path, "/sys/fs/cgroup/cpu,cpuacct");
    EXPECT_FALSE(cpu->favordynmods);
    EXPECT_EQ(find_cgroup_v2(kHybrid)->path, "/sys/fs/cgroup/unified");
    EXPECT_FALSE(find_cgroup_v1(kHybrid, "memory"));
    EXPECT_FALSE(find_cgroup_v2(""));
}

TEST(DoctorParse, OwnPathOfEachHierarchy) {
    constexpr std::string_view text = "4:memory:/jobs/a:b\n1:cpu,cpuacct:/c\n0::/user.slice\nrubbish\n";
    EXPECT_EQ(cgroup_path(text, "memory"), "/jobs/a:b");
    EXPECT_EQ(cgroup_path(text, "cpuacct"), "/c");
    EXPECT_EQ(cgroup_path(text, ""), "/user.slice");
    EXPECT_FALSE(cgroup_path(text, "pids"));
    EXPECT_FALSE(cgroup_path("1:cpu:/x\n", ""));
}

TEST(DoctorParse, CpuMaxIsCpus) {
    EXPECT_DOUBLE_EQ(*cpu_max("150000 100000\n"), 1.5);
    EXPECT_DOUBLE_EQ(*cpu_max("50000 100000"), 0.5);
    EXPECT_FALSE(cpu_max("max 100000\n"));
    EXPECT_FALSE(cpu_max("-1 100000"));
    EXPECT_FALSE(cpu_max("1 0"));
    EXPECT_FALSE(cpu_max(""));
}

}  // namespace
}  // namespace snapvm::doctor
