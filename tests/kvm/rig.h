// SPDX-License-Identifier: Apache-2.0
// vCPUs on a bus of the test, without a Machine around them. For devices that count accesses.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "tests/kvm/harness.h"
#include "tests/kvm/tiny_guest.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/vm.h"
#include "vmm/vcpu/vcpu_set.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm::test {

inline constexpr std::uint16_t kCounterPort = 0x700;
inline constexpr Gpa kCounterMmio{0xD0000000};

/// Each read returns one more than the read before. Each write has to do the same; others are
/// counted as wrong.
class CountingDevice final : public BusDevice {
public:
    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    std::atomic<std::uint32_t> reads = 0;
    std::atomic<std::uint32_t> writes = 0;
    std::atomic<std::uint32_t> wrong_writes = 0;
};

/// A tiny guest on its vCPUs. move_to_new_vm() does what a snapshot and a restore do, except that
/// memory stays.
class Rig final : private VcpuEvents {
public:
    Rig(const kvm::System& system, const TinyGuest& guest, std::uint32_t cpus = 1);
    ~Rig() override = default;

    [[nodiscard]] VcpuSet& vcpus() { return *vcpus_; }
    [[nodiscard]] GuestMemory& memory() { return memory_; }
    /// Saves the state of the paused vCPUs, destroys them, and gives the state to new vCPUs of a
    /// new VM, which are not started.
    void move_to_new_vm();
    /// Returns what a vCPU thread reported as the end, "" if none has.
    [[nodiscard]] std::string trouble() const;
    /// Returns the guest's counter number `index` in its data page.
    [[nodiscard]] std::uint64_t counter(std::uint64_t index) const;

    CountingDevice device;

private:
    void build(std::uint32_t cpus);
    void end_of_interrupt(std::uint8_t /*vector*/) override {}
    void triple_fault(const kvm::VcpuFd& vcpu) override;
    void vcpu_failed(const kvm::VcpuFd& /*vcpu*/, Error error) override { failed(std::move(error)); }
    void dirty_ring_full() override {}
    void failed(Error error) override;

    const kvm::System& system_;
    GuestMemory memory_;
    Bus ports_{kPortLimit};
    Bus mmio_{~0ULL};
    mutable std::mutex mutex_;
    std::string trouble_;
    std::vector<std::uint32_t> msr_indices_;
    std::optional<kvm::Vm> vm_;
    std::vector<kvm::VcpuFd> vcpu_fds_;
    std::unique_ptr<VcpuSet> vcpus_;
};

/// Creates a machine with a tiny guest without starting it.
std::unique_ptr<Machine> tiny_machine(const kvm::System& system, const TinyGuest& guest, std::uint32_t cpus = 1);
/// Creates one of this configuration.
std::unique_ptr<Machine> tiny_machine(const kvm::System& system, const TinyGuest& guest, const MachineConfig& config,
                                      const HostSetup& host = {});
/// Creates one, starts it and waits for READY.
std::unique_ptr<Machine> booted_tiny_machine(const kvm::System& system, const TinyGuest& guest);

}  // namespace snapvm::test
