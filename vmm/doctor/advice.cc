// SPDX-License-Identifier: Apache-2.0
#include "vmm/doctor/advice.h"

#include <cerrno>
#include <cmath>
#include <system_error>

#include "vmm/base/size_text.h"

namespace snapvm::doctor {
namespace {

// A machine should start in one or two milliseconds, so a creation that takes that long deserves
// advice. Without the cgroup problem below it takes 0.1 to 0.5 ms.
constexpr double kSlowCreateUs = 2000;
constexpr std::uint64_t kLittleMemory = 512ULL << 20;
constexpr std::uint64_t kUsualMapCount = 65'530;
constexpr std::uint64_t kFewFiles = 1024;

std::string number(double value) {
    std::string text = std::to_string(std::lround(value * 10));
    if (text.size() == 1) {
        text.insert(0, "0");
    }
    text.insert(text.size() - 1, ".");
    return text;
}

class Advisor {
public:
    void add(std::string topic, std::string text) { advice_.push_back({std::move(topic), std::move(text)}); }
    std::vector<Advice> take() { return std::move(advice_); }

    void kvm(const KvmFacts& kvm, const CgroupFacts& cgroup, const SystemFacts& system) {
        const kvm::Capabilities& caps = kvm.capabilities;
        if (kvm.kernel_emulated) {
            add("kernel_emulated",
                "kernel-mode code of guests is interpreted (" +
                    std::to_string(std::lround(kvm.kernel_instruction_ns.value_or(0))) +
                    " ns an instruction), so booting an operating system is slow: " +
                    (system.hypervisor ? "enable nested virtualisation for this virtual machine, or use the host itself"
                                       : "enable VT-x or AMD-V in the firmware"));
        }
        if (!kvm.tsc_settable) {
            add("tsc_settable",
                "the guests' TSC cannot be set, so a restored guest reads the host's and restore --clock sets kvmclock "
                "alone: let guests use kvmclock (no setting of this host changes it)");
        }
        if (caps.tsc_control == 0) {
            add("tsc_control",
                "the guests' TSC cannot be scaled, so this host refuses snapshots from hosts of another frequency than "
                "its " +
                    std::to_string(kvm.tsc_khz) + " kHz (250 ppm): restore them on hosts like their own");
        }
        if (caps.dirty_ring == 0) {
            add("dirty_ring",
                "KVM has no dirty ring, so --dirty ring is refused and the log is used: use Linux 5.11 or newer");
        }
        if (caps.manual_dirty_log == 0) {
            add("manual_dirty_log",
                "KVM has no manual dirty log, so each reading of the log write-protects all memory: use Linux 5.0 or "
                "newer");
        }
        if (caps.xsave2 == 0) {
            add("xsave2", "the state of guests with AMX cannot be saved: use Linux 5.17 or newer");
        }
        if (kvm.create_vm_us > kSlowCreateUs) {
            creation_is_slow(kvm, cgroup);
        }
    }

    void userfaultfd(const UserfaultfdFacts& facts) {
        if (!facts.available) {
            add("userfaultfd",
                "there is no userfaultfd, so --when-diverging protect becomes throttle: use a kernel with "
                "CONFIG_USERFAULTFD, or allow the system call in this container's seccomp profile");
            return;
        }
        if (facts.kernel_faults.empty()) {
            add("userfaultfd",
                "userfaultfd cannot take a guest's faults for this user: sudo setfacl -m u:$USER:rw /dev/userfaultfd "
                "(Linux 6.1), or sudo sysctl vm.unprivileged_userfaultfd=1, or run as root");
        }
        if (!facts.minor) {
            add("userfaultfd.minor", "userfaultfd has no minor faults for shared memory: use Linux 5.14 or newer");
        }
        if (!facts.write_protect) {
            add("userfaultfd.write_protect", "userfaultfd cannot write-protect: use Linux 5.7 or newer");
        } else if (!facts.protect_unpopulated) {
            add("userfaultfd.protect_unpopulated",
                "userfaultfd cannot write-protect pages that a balloon has taken, so --when-diverging protect becomes "
                "throttle for machines with one: use Linux 6.4 or newer");
        }
    }

    void io_uring(const IoUringFacts& facts, const MemoryFacts& memory) {
        std::string what;
        switch (facts.error) {
            case 0: return;
            case ENOSYS: what = "use a kernel with CONFIG_IO_URING"; break;
            case EPERM:
            case EACCES:
                what = facts.sysctl > 0 ? "sudo sysctl kernel.io_uring_disabled=0"
                                        : "allow it in this container's seccomp profile";
                break;
            case ENOMEM:
                what = "raise the limit of locked memory (ulimit -l" +
                       (memory.locked_limit ? ", now " + size_text(*memory.locked_limit) : std::string()) + ")";
                break;
            default: what = std::generic_category().message(facts.error);
        }
        add("io_uring", "io_uring cannot be used, so threads write the snapshots: " + what);
    }

    void huge_pages(const HugePageFacts& facts) {
        if (facts.enabled != "always" && facts.enabled != "madvise") {
            add("huge_pages.enabled",
                "guests get no huge pages, so first touches and restores are slower: echo madvise | sudo tee "
                "/sys/kernel/mm/transparent_hugepage/enabled");
        }
        if (facts.shmem_enabled == "never" || facts.shmem_enabled == "deny" || facts.shmem_enabled.empty()) {
            add("huge_pages.shmem_enabled",
                "memory that machines share gets 4 KiB pages: echo advise | sudo tee "
                "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
        }
    }

    void cgroup(const CgroupFacts& facts, const SystemFacts& system) {
        if (facts.cpu_limit && *facts.cpu_limit < system.cpus) {
            add("cgroup.cpu_limit",
                "a cgroup allows " + number(*facts.cpu_limit) + " of " + std::to_string(system.cpus) +
                    " CPUs, so machines with more busy vCPUs stand for the rest of each period: raise cpu.max");
        }
        if (facts.memory_limit && *facts.memory_limit < kLittleMemory) {
            add("cgroup.memory_limit",
                "a cgroup allows " + size_text(*facts.memory_limit) + " of memory: raise memory.max");
        }
    }

    void memory(const MemoryFacts& facts) {
        if (facts.available && *facts.available < kLittleMemory) {
            add("memory.available",
                "only " + std::to_string(*facts.available >> 20) + "M of memory is available: stop other programs");
        }
        if (facts.overcommit == 2) {
            add("memory.overcommit",
                "the memory of each clone counts in full before it is used: sudo sysctl vm.overcommit_memory=0");
        }
        if (facts.max_map_count && *facts.max_map_count < kUsualMapCount) {
            add("memory.max_map_count", "a process may have only " + std::to_string(*facts.max_map_count) +
                                            " mappings: sudo sysctl vm.max_map_count=65530");
        }
        if (facts.open_files < kFewFiles) {
            add("memory.open_files",
                "a process may have only " + std::to_string(facts.open_files) + " open files: ulimit -n 1024");
        }
    }

private:
    // From Linux 5.4 on, KVM starts a recovery thread with each machine and moves it into the
    // machine's cgroup. The move waits for a grace period of all CPUs, tens of milliseconds. There
    // is no wait without the thread (nx_huge_pages=never) or with cheap moves (favordynmods). Later
    // kernels start the thread in another way.
    void creation_is_slow(const KvmFacts& kvm, const CgroupFacts& cgroup) {
        std::string text = "KVM_CREATE_VM takes " + number(kvm.create_vm_us / 1000) + " ms";
        if (kvm.nx_huge_pages != "never" && !cgroup.favordynmods && cgroup.version != "none") {
            text += cgroup.version == "v1"
                        ? ": load kvm with nx_huge_pages=never if the processor is not affected by itlb_multihit"
                        : ": sudo mount -o remount,favordynmods /sys/fs/cgroup, or load kvm with nx_huge_pages=never "
                          "if the processor is not affected by itlb_multihit";
        } else {
            text +=
                ": the host is busy, or KVM starts slowly for the first machine: stop other programs, or keep one "
                "machine running";
        }
        add("create_vm_us", std::move(text));
    }

    std::vector<Advice> advice_;
};

}  // namespace

std::vector<Advice> advise(const HostFacts& facts) {
    Advisor advisor;
    advisor.kvm(facts.kvm, facts.cgroup, facts.system);
    advisor.userfaultfd(facts.userfaultfd);
    advisor.io_uring(facts.io_uring, facts.memory);
    advisor.huge_pages(facts.huge_pages);
    advisor.cgroup(facts.cgroup, facts.system);
    advisor.memory(facts.memory);
    return advisor.take();
}

}  // namespace snapvm::doctor
