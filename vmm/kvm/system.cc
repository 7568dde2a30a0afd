// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/system.h"

#include <fcntl.h>

#include <algorithm>
#include <cstddef>
#include <string>

#include "vmm/base/try.h"
#include "vmm/kvm/cpuid_reader.h"
#include "vmm/kvm/ioctl.h"

namespace snapvm::kvm {
namespace {

constexpr const char* kDevice = "/dev/kvm";

// Returns advice for a /dev/kvm that does not open.
std::string advice_for(int error) {
    switch (error) {
        case EACCES:
        case EPERM: return "join its group: sudo usermod -aG kvm $USER, then log in again";
        case ENOENT:
        case ENODEV:
        case ENXIO:
            return "load the module (sudo modprobe kvm_intel or kvm_amd); in a virtual machine, enable nested "
                   "virtualisation; in a "
                   "container, pass the device in (--device /dev/kvm)";
        default: return "stop another hypervisor if it holds the processor's virtualisation";
    }
}

// Makes a buffer for an argument with a flexible array. KVM returns E2BIG while it is too small.
template <class Header, class Element>
std::vector<std::byte> flexible(std::size_t count) {
    return std::vector<std::byte>(sizeof(Header) + count * sizeof(Element));
}

}  // namespace

int System::check(int extension) const {
    return std::max(0, ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(extension)));
}

Result<System> System::open() {
    Result<UniqueFd> opened = open_file(kDevice, O_RDWR);
    if (!opened) {
        const int error = opened.error().code();
        return fail(std::move(opened).error().advise(advice_for(error)));
    }
    System system(std::move(*opened));
    const int version = TRY(KVM_IOCTL(system.fd(), KVM_GET_API_VERSION, 0UL, kDevice));
    if (version != KVM_API_VERSION) {
        return fail(ErrorKind::unsupported, "KVM has API version " + std::to_string(version) + ", 12 is needed",
                    "use Linux 2.6.22 or newer");
    }
    system.run_mapping_size_ =
        static_cast<std::size_t>(TRY(KVM_IOCTL(system.fd(), KVM_GET_VCPU_MMAP_SIZE, 0UL, kDevice)));
    Capabilities& caps = system.capabilities_;
    caps.max_vcpus = system.check(KVM_CAP_MAX_VCPUS);
    caps.memory_slots = system.check(KVM_CAP_NR_MEMSLOTS);
    caps.split_irqchip = system.check(KVM_CAP_SPLIT_IRQCHIP);
    caps.immediate_exit = system.check(KVM_CAP_IMMEDIATE_EXIT);
    caps.user_memory = system.check(KVM_CAP_USER_MEMORY);
    caps.signal_msi = system.check(KVM_CAP_SIGNAL_MSI);
    caps.irqfd = system.check(KVM_CAP_IRQFD);
    caps.ioeventfd = system.check(KVM_CAP_IOEVENTFD);
    caps.xsave2 = system.check(KVM_CAP_XSAVE2);
    caps.xcrs = system.check(KVM_CAP_XCRS);
    caps.debugregs = system.check(KVM_CAP_DEBUGREGS);
    caps.vcpu_events = system.check(KVM_CAP_VCPU_EVENTS);
    caps.sregs2 = system.check(KVM_CAP_SREGS2);
    caps.kvmclock_ctrl = system.check(KVM_CAP_KVMCLOCK_CTRL);
    caps.adjust_clock = system.check(KVM_CAP_ADJUST_CLOCK);
    caps.tsc_control = system.check(KVM_CAP_TSC_CONTROL);
    caps.get_tsc_khz = system.check(KVM_CAP_GET_TSC_KHZ);
    caps.tsc_deadline_timer = system.check(KVM_CAP_TSC_DEADLINE_TIMER);
    caps.manual_dirty_log = system.check(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    caps.dirty_ring = std::max(system.check(KVM_CAP_DIRTY_LOG_RING), system.check(KVM_CAP_DIRTY_LOG_RING_ACQ_REL));
    caps.x86_user_space_msr = system.check(KVM_CAP_X86_USER_SPACE_MSR);
    caps.exit_on_emulation_failure = system.check(KVM_CAP_EXIT_ON_EMULATION_FAILURE);
    caps.binary_stats = system.check(KVM_CAP_BINARY_STATS_FD);
    caps.sync_regs = system.check(KVM_CAP_SYNC_REGS);
    caps.pre_fault_memory = system.check(236);   // KVM_CAP_PRE_FAULT_MEMORY, newer than Debian 12's headers
    caps.memory_attributes = system.check(233);  // KVM_CAP_MEMORY_ATTRIBUTES, newer than them, too
    if (caps.user_memory == 0 || caps.split_irqchip == 0 || caps.immediate_exit == 0 || caps.signal_msi == 0 ||
        caps.vcpu_events == 0 || caps.xcrs == 0) {
        return fail(ErrorKind::unsupported,
                    "this KVM lacks user memory, split irqchip, immediate exit, MSI, events or XCRs",
                    "use Linux 4.12 or newer");
    }
    return system;
}

Result<std::vector<kvm_cpuid_entry2>> System::supported_cpuid() const {
    return read_cpuid(128, [&](kvm_cpuid2* table) { return KVM_IOCTL(fd(), KVM_GET_SUPPORTED_CPUID, table, kDevice); });
}

Result<std::vector<std::uint32_t>> System::msr_indices() const {
    for (std::size_t count = 512; count <= 16384; count *= 2) {
        auto buffer = flexible<kvm_msr_list, std::uint32_t>(count);
        auto* list = reinterpret_cast<kvm_msr_list*>(buffer.data());
        list->nmsrs = static_cast<std::uint32_t>(count);
        const auto got = KVM_IOCTL(fd(), KVM_GET_MSR_INDEX_LIST, list, kDevice);
        if (got) {
            return std::vector<std::uint32_t>(list->indices, list->indices + list->nmsrs);
        }
        if (got.error().code() != E2BIG) {
            return fail(got.error());
        }
    }
    return fail(ErrorKind::unsupported, "KVM_GET_MSR_INDEX_LIST has more than 16384 entries");
}

}  // namespace snapvm::kvm
