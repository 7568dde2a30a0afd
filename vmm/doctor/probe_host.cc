// SPDX-License-Identifier: Apache-2.0
// Probes the host: memory, cgroups, huge pages, userfaultfd and io_uring, as any process can see
// them.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"
#include "vmm/doctor/parse.h"
#include "vmm/doctor/probe.h"
#include "vmm/io/engine.h"
#include "vmm/memory/userfaultfd.h"

namespace snapvm::doctor {
namespace {

// Reads a file that may be absent. Returns an empty string then.
std::string text_of(const std::string& path) { return read_file(path, 4U << 20).value_or(std::string()); }

int small_number(const std::string& path) {
    const auto value = parse_number(text_of(path));
    return value ? static_cast<int>(std::min<std::uint64_t>(*value, 1U << 30)) : -1;
}

// Returns the folders of a process' cgroup and of those above it, up to the hierarchy's root. A
// limit on any of them applies.
std::vector<std::string> cgroup_folders(const CgroupMount& mount, std::string path) {
    std::vector<std::string> folders;
    while (!path.empty() && path != "/") {
        folders.push_back(mount.path + path);
        path.erase(std::min(path.rfind('/'), path.size()));
    }
    folders.push_back(mount.path);
    return folders;
}

template <class T>
void keep_smaller(std::optional<T>& smallest, std::optional<T> value) {
    if (value && (!smallest || *value < *smallest)) {
        smallest = value;
    }
}

// For "no limit" cgroup v1 writes a number near 2^63.
std::optional<std::uint64_t> memory_limit(const std::string& text) {
    const auto value = parse_number(text);
    return value && *value < (1ULL << 62) ? value : std::nullopt;
}

}  // namespace

SystemFacts probe_system() {
    SystemFacts facts;
    utsname name{};
    if (::uname(&name) == 0) {
        facts.kernel = name.release;
    }
    const std::string cpuinfo = text_of("/proc/cpuinfo");
    facts.cpu_model = cpuinfo_value(cpuinfo, "model name");
    facts.hypervisor = (" " + cpuinfo_value(cpuinfo, "flags") + " ").find(" hypervisor ") != std::string::npos;
    cpu_set_t set;
    facts.cpus = ::sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<std::uint32_t>(CPU_COUNT(&set)) : 1;
    facts.root = ::geteuid() == 0;
    return facts;
}

UserfaultfdFacts probe_userfaultfd() {
    UserfaultfdFacts facts;
    facts.sysctl = small_number("/proc/sys/vm/unprivileged_userfaultfd");
    UniqueFd fd;
    if (auto opened = open_userfaultfd()) {
        fd = std::move(opened->fd);
        facts.kernel_faults = opened->way;
    } else {
        fd = UniqueFd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
    }
    if (const auto features = fd.valid() ? agree_on_features(fd, 0) : Result<std::uint64_t>(0); *features != 0) {
        facts.available = true;
        facts.missing = true;
        facts.minor = (*features & UFFD_FEATURE_MINOR_SHMEM) != 0;
        facts.write_protect = (*features & UFFD_FEATURE_PAGEFAULT_FLAG_WP) != 0;
        facts.protect_unpopulated = (*features & kUffdProtectsUnpopulated) != 0;
    }
    return facts;
}

IoUringFacts probe_io_uring() {
    IoUringFacts facts;
    facts.sysctl = small_number("/proc/sys/kernel/io_uring_disabled");
    const auto engine = io::make_engine(io::EngineKind::uring, {});
    facts.error = engine ? 0 : engine.error().code();
    return facts;
}

HugePageFacts probe_huge_pages() {
    const std::string folder = "/sys/kernel/mm/transparent_hugepage/";
    return {.enabled = chosen_word(text_of(folder + "enabled")),
            .defrag = chosen_word(text_of(folder + "defrag")),
            .shmem_enabled = chosen_word(text_of(folder + "shmem_enabled")),
            .reserved = meminfo_value(text_of("/proc/meminfo"), "HugePages_Total")};
}

CgroupFacts probe_cgroup() {
    CgroupFacts facts;
    const std::string mounts = text_of("/proc/mounts");
    const std::string own = text_of("/proc/self/cgroup");
    const auto unified = find_cgroup_v2(mounts);
    const auto cpu = find_cgroup_v1(mounts, "cpu");
    const auto memory = find_cgroup_v1(mounts, "memory");
    const bool v1 = cpu || memory;
    facts.version = mounts.empty() ? "" : v1 ? (unified ? "hybrid" : "v1") : (unified ? "v2" : "none");
    facts.favordynmods = (unified && unified->favordynmods) || (cpu && cpu->favordynmods);
    if (unified) {
        for (const std::string& folder : cgroup_folders(*unified, cgroup_path(own, "").value_or("/"))) {
            keep_smaller(facts.cpu_limit, cpu_max(text_of(folder + "/cpu.max")));
            keep_smaller(facts.memory_limit, memory_limit(text_of(folder + "/memory.max")));
        }
    }
    if (cpu) {
        for (const std::string& folder : cgroup_folders(*cpu, cgroup_path(own, "cpu").value_or("/"))) {
            // A quota of -1 means no limit. cpu_max does not parse it as a number.
            keep_smaller(facts.cpu_limit,
                         cpu_max(text_of(folder + "/cpu.cfs_quota_us") + " " + text_of(folder + "/cpu.cfs_period_us")));
        }
    }
    if (memory) {
        for (const std::string& folder : cgroup_folders(*memory, cgroup_path(own, "memory").value_or("/"))) {
            keep_smaller(facts.memory_limit, memory_limit(text_of(folder + "/memory.limit_in_bytes")));
        }
    }
    return facts;
}

MemoryFacts probe_memory() {
    MemoryFacts facts;
    const std::string meminfo = text_of("/proc/meminfo");
    facts.total = meminfo_value(meminfo, "MemTotal");
    facts.available = meminfo_value(meminfo, "MemAvailable");
    facts.swap = meminfo_value(meminfo, "SwapTotal");
    facts.overcommit = small_number("/proc/sys/vm/overcommit_memory");
    facts.max_map_count = parse_number(text_of("/proc/sys/vm/max_map_count"));
    rlimit limit{};
    if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        facts.locked_limit = limit.rlim_cur;
    }
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        facts.open_files = limit.rlim_cur;
    }
    return facts;
}

Result<HostFacts> probe_host() {
    HostFacts facts;
    facts.kvm = TRY(probe_kvm());
    facts.system = probe_system();
    facts.userfaultfd = probe_userfaultfd();
    facts.io_uring = probe_io_uring();
    facts.huge_pages = probe_huge_pages();
    facts.cgroup = probe_cgroup();
    facts.memory = probe_memory();
    return facts;
}

}  // namespace snapvm::doctor
