// SPDX-License-Identifier: Apache-2.0
// What a host offers and costs, as plain values. probe_host measures them once; they are printed,
// judged, and stored with bench results.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vmm/kvm/system.h"

namespace snapvm::doctor {

/// The kernel, the processor and the user.
struct SystemFacts {
    std::string kernel;  ///< uname's release
    std::string cpu_model;
    std::uint32_t cpus = 0;  ///< usable by this process
    bool root = false;
    bool hypervisor = false;  ///< this host is a virtual machine itself
};

struct KvmFacts {
    kvm::Capabilities capabilities;
    double create_vm_us = 0;  ///< median time of KVM_CREATE_VM
    double exit_us = 0;  ///< from KVM_RUN to the next port exit, from CPL 0
    /// The time of one instruction of a register loop at CPL 0, or nothing if it cannot be
    /// measured.
    std::optional<double> kernel_instruction_ns;
    bool kernel_emulated = false;  ///< so slow that KVM must be interpreting it
    bool tsc_settable = false;  ///< the guest reads the value that was written to its TSC
    std::uint32_t tsc_khz = 0;
    std::string nx_huge_pages;  ///< the module's parameter: "Y", "N", "never"; empty if unreadable
};

struct UserfaultfdFacts {
    bool available = false;  ///< at least for faults in user mode
    bool missing = false, minor = false, write_protect = false;
    bool protect_unpopulated = false;  ///< write_protect also works for unpopulated pages
    /// How this user gets a userfaultfd that also reports KVM's faults: "system call",
    /// "/dev/userfaultfd", or empty if there is no way.
    std::string kernel_faults;
    int sysctl = -1;  ///< vm.unprivileged_userfaultfd; -1 if unreadable
};

struct IoUringFacts {
    int error = 0;  ///< errno of setting up a ring; 0: it works
    int sysctl = -1;  ///< kernel.io_uring_disabled; -1 if the kernel has none
};

/// The selected words of /sys/kernel/mm/transparent_hugepage; empty if there is no such file.
struct HugePageFacts {
    std::string enabled, defrag, shmem_enabled;
    std::optional<std::uint64_t> reserved;  ///< hugetlb pages
};

struct CgroupFacts {
    std::string version;  ///< "v1", "v2", "hybrid", "none"; empty if unknown
    bool favordynmods = false;  ///< of the unified or the v1 cpu hierarchy
    std::optional<double> cpu_limit;  ///< in CPUs
    std::optional<std::uint64_t> memory_limit;  ///< bytes
};

/// Without /proc, its values are unknown: empty, and -1.
struct MemoryFacts {
    std::optional<std::uint64_t> total, available, swap;  ///< bytes
    int overcommit = -1;                                  ///< vm.overcommit_memory
    std::optional<std::uint64_t> max_map_count;
    std::optional<std::uint64_t> locked_limit;  ///< RLIMIT_MEMLOCK in bytes; nothing: no limit
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

/// An instruction slower than this is interpreted, whatever the clock rate: a slow processor takes
/// 1 ns for an instruction of a register loop.
inline constexpr double kEmulatedInstructionNs = 50;

}  // namespace snapvm::doctor
