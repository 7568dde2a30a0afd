// SPDX-License-Identifier: Apache-2.0
// The state that an emulated instruction reads and changes, and the exceptions that it can raise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/emulate/address_space.h"
#include "vmm/kvm/abi.h"
#include "vmm/kvm/x86.h"

namespace snapvm::emulate {

using namespace x86;  // this folder uses the processor's names everywhere

/// x87, vector and other state that XSAVE manages. Each access is a call to KVM, so only the
/// instructions that need it make one.
class ExtendedState {
public:
    virtual ~ExtendedState() = default;
    /// Returns the state in XSAVE's standard form. Its header tells which components are in use
    /// (KVM_GET_XSAVE2).
    virtual Result<std::vector<std::byte>> load() = 0;
    virtual Status store(std::span<const std::byte> image) = 0;
    /// Returns XCR0: the components that the guest's kernel has enabled.
    virtual Result<std::uint64_t> xcr0() = 0;
};

/// General and system registers. An instruction that raises a fault leaves them unchanged.
struct CpuState {
    kvm_regs regs{};
    kvm_sregs sregs{};
    bool sregs_changed = false;

    [[nodiscard]] unsigned cpl() const { return sregs.ss.dpl; }
};

/// An exception to raise in the guest. `after` makes it a trap, whose saved RIP is after the
/// instruction (INT3, INT n).
struct Exception {
    std::uint8_t vector = 0;
    std::optional<std::uint32_t> error_code = {};
    std::optional<std::uint64_t> cr2 = {};
    bool after = false;
    bool software_interrupt = false;  ///< INT n, which is not an exception
};

inline constexpr std::uint8_t kVectorDebug = 1, kVectorBreakpoint = 3, kVectorInvalidOpcode = 6,
                              kVectorDeviceNotAvailable = 7, kVectorStackFault = 12, kVectorGeneralProtection = 13,
                              kVectorPageFault = 14, kVectorX87 = 16;

inline Exception invalid_opcode() { return {.vector = kVectorInvalidOpcode}; }
inline Exception general_protection() { return {.vector = kVectorGeneralProtection, .error_code = 0}; }
inline Exception device_not_available() { return {.vector = kVectorDeviceNotAvailable}; }
inline Exception page_fault(const PageFault& fault) {
    return {.vector = kVectorPageFault, .error_code = fault.error_code, .cr2 = fault.address};
}

}  // namespace snapvm::emulate
