// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/vcpu_fd.h"

#include <cerrno>
#include <cstring>

#include "vmm/base/try.h"
#include "vmm/kvm/cpuid_reader.h"
#include "vmm/kvm/ioctl.h"
#include "vmm/memory/gpa.h"

namespace snapvm::kvm {

Result<VcpuFd> VcpuFd::create(const System& system, int vm_fd, std::uint32_t index, std::uint32_t ring_entries) {
    const std::string name = "vCPU " + std::to_string(index);
    UniqueFd fd(TRY(KVM_IOCTL(vm_fd, KVM_CREATE_VCPU, static_cast<unsigned long>(index), name)));
    Mapping run = TRY(Mapping::of_file(fd.get(), 0, system.run_mapping_size(), 4096, /*shared=*/true));
    Mapping ring;
    if (ring_entries != 0) {
        ring = TRY(Mapping::of_file(fd.get(), KVM_DIRTY_LOG_PAGE_OFFSET * kPageSize,
                                    ring_entries * sizeof(kvm_dirty_gfn), kPageSize,
                                    /*shared=*/true));
    }
    VcpuFd vcpu(std::move(fd), std::move(run), index);
    vcpu.ring_ = std::move(ring);
    vcpu.ring_entries_ = ring_entries;
    return vcpu;
}

std::span<std::byte> VcpuFd::io_bytes() const {
    const kvm_run& run = shared();
    return run_.bytes().subspan(run.io.data_offset, static_cast<std::size_t>(run.io.size) * run.io.count);
}

int VcpuFd::run() { return ::ioctl(fd_.get(), KVM_RUN, 0UL) == 0 ? 0 : errno; }

Status VcpuFd::control(unsigned long request, void* argument, const char* call) const {
    TRY(checked_ioctl(fd_.get(), request, argument, call, name_));
    return {};
}

Result<std::vector<kvm_cpuid_entry2>> VcpuFd::cpuid() const {
    return read_cpuid(cpuid_entries_,
                      [&](kvm_cpuid2* table) { return KVM_IOCTL(fd_.get(), KVM_GET_CPUID2, table, name_); });
}

Status VcpuFd::set_cpuid(std::span<const kvm_cpuid_entry2> entries) {
    std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + entries.size_bytes());
    auto* table = reinterpret_cast<kvm_cpuid2*>(buffer.data());
    table->nent = static_cast<std::uint32_t>(entries.size());
    std::memcpy(table->entries, entries.data(), entries.size_bytes());
    TRY(KVM_IOCTL(fd_.get(), KVM_SET_CPUID2, table, name_));
    cpuid_entries_ = entries.size();
    return {};
}

Result<std::vector<kvm_msr_entry>> VcpuFd::msrs(std::span<const std::uint32_t> indices) const {
    std::vector<kvm_msr_entry> found;
    found.reserve(indices.size());
    std::vector<std::byte> buffer(sizeof(kvm_msrs) + indices.size() * sizeof(kvm_msr_entry));
    auto* table = reinterpret_cast<kvm_msrs*>(buffer.data());
    while (!indices.empty()) {
        table->nmsrs = static_cast<std::uint32_t>(indices.size());
        for (std::size_t i = 0; i < indices.size(); ++i) {
            table->entries[i] = {.index = indices[i], .reserved = 0, .data = 0};
        }
        // KVM_GET_MSRS stops at the first MSR that it cannot read, and returns the number of those
        // before.
        const int got = TRY(KVM_IOCTL(fd_.get(), KVM_GET_MSRS, table, name_));
        const auto count = static_cast<std::size_t>(got);
        found.insert(found.end(), table->entries, table->entries + count);
        indices = indices.subspan(std::min(count + 1, indices.size()));
    }
    return found;
}

Result<std::size_t> VcpuFd::set_msrs(std::span<const kvm_msr_entry> entries) {
    std::vector<std::byte> buffer(sizeof(kvm_msrs) + entries.size_bytes());
    auto* table = reinterpret_cast<kvm_msrs*>(buffer.data());
    table->nmsrs = static_cast<std::uint32_t>(entries.size());
    std::memcpy(table->entries, entries.data(), entries.size_bytes());
    return static_cast<std::size_t>(TRY(KVM_IOCTL(fd_.get(), KVM_SET_MSRS, table, name_)));
}

std::uint32_t VcpuFd::tsc_khz() const {
    const int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0UL);
    return khz > 0 ? static_cast<std::uint32_t>(khz) : 0;
}

Status VcpuFd::set_tsc_khz(std::uint32_t khz) {
    TRY(KVM_IOCTL(fd_.get(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz), name_));
    return {};
}

Status VcpuFd::notify_paused() {
    const auto done = KVM_IOCTL(fd_.get(), KVM_KVMCLOCK_CTRL, 0UL, name_);
    if (!done && done.error().code() != EINVAL) {  // EINVAL: the guest has set up no kvmclock
        return fail(done.error());
    }
    return {};
}

}  // namespace snapvm::kvm
