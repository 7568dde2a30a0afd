// SPDX-License-Identifier: Apache-2.0
// What a host offers and costs, as plain values: measured once by probe_host, then printed, judged and stored beside bench results.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vmm/kvm/system.h"

namespace snapvm::doctor {

/// Who asks, and on what.
struct SystemFacts {
    std::string kernel;  ///< uname's release
    std::string cpu_model;
    std::uint32_t cpus = 0;  ///< that this process may use
    bool root = false;
    bool hypervisor = false;  ///< this host is a virtual machine itself
};

struct KvmFacts {
    kvm::Capabilities capabilities;
    double create_vm_us = 0;  ///< p50 of KVM_CREATE_VM
    double exit_us = 0;  ///< KVM_RUN to the next port exit, from CPL 0
    std::optional<double> kernel_instruction_ns;  ///< an instruction of a register loop at CPL 0; nothing: not measurable
    bool kernel_emulated = false;  ///< that is so slow that KVM must be interpreting it
    bool tsc_settable = false;  ///< the guest reads what was written to its TSC
    std::uint32_t tsc_khz = 0;
    std::string nx_huge_pages;  ///< the module's parameter: "Y", "N", "never"; empty where it cannot be read
};

struct UserfaultfdFacts {
    bool available = false;  ///< at least for faults of user mode
    bool missing = false, minor = false, write_protect = false;
    bool protect_unpopulated = false;  ///< write_protect for pages that are not there, too
    /// How this user gets one that also takes KVM's faults: "system call", "/dev/userfaultfd", or empty for not at all.
    std::string kernel_faults;
    int sysctl = -1;  ///< vm.unprivileged_userfaultfd; -1 where it cannot be read
};

struct IoUringFacts {
    int error = 0;  ///< errno of setting up a ring; 0: works
    int sysctl = -1;  ///< kernel.io_uring_disabled; -1 where there is none
};

/// The chosen words of /sys/kernel/mm/transparent_hugepage; empty where there is no such file.
struct HugePageFacts {
    std::string enabled, defrag, shmem_enabled;
    std::uint64_t reserved = 0;  ///< hugetlb pages
};

struct CgroupFacts {
    std::string version;  ///< "v1", "v2", "hybrid", "none"
    bool favordynmods = false;  ///< on the hierarchy that matters
    std::optional<double> cpu_limit;  ///< CPUs' worth of time
    std::optional<std::uint64_t> memory_limit;  ///< bytes
};

struct MemoryFacts {
    std::uint64_t total = 0, available = 0, swap = 0;  ///< bytes
    int overcommit = 0;  ///< vm.overcommit_memory
    std::uint64_t max_map_count = 0;
    std::optional<std::uint64_t> locked_limit;  ///< RLIMIT_MEMLOCK, bytes; nothing: no limit
    std::uint64_t open_files = 0;  ///< RLIMIT_NOFILE
};

struct HostFacts {
    SystemFacts system;
    KvmFacts kvm;
    UserfaultfdFacts userfaultfd;
    IoUringFacts io_uring;
    HugePageFacts huge_pages;
    CgroupFacts cgroup;
    MemoryFacts memory;
};

/// An instruction slower than this is interpreted, whatever the clock rate: a slow processor needs 1 ns for one of a register loop.
inline constexpr double kEmulatedInstructionNs = 50;

}  // namespace snapvm::doctor
