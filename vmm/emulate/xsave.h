// SPDX-License-Identifier: Apache-2.0
// The instructions of the XSAVE family, on the state that KVM keeps. Source: Intel SDM volume 1,
// chapter 13 (13.4 layout, 13.7 to 13.12 the instructions).
#pragma once

#include <array>
#include <cstdint>

#include "vmm/emulate/address_space.h"
#include "vmm/emulate/cpu_state.h"
#include "vmm/emulate/executed.h"

namespace snapvm::emulate {

/// Where this processor places the components of extended state (CPUID leaf 0xD, which KVM does not
/// change).
struct XsaveLayout {
    struct Component {
        std::uint32_t offset = 0;  ///< bytes, in the standard form
        std::uint32_t size = 0;  ///< bytes; 0: no component has this number
        bool aligned = false;  ///< to 64 bytes, in the compacted form
    };
    std::array<Component, 63> components{};

    static const XsaveLayout& of_host();
    /// Returns the offset of a component in the compacted form with the components `present`
    /// (XCOMP_BV).
    [[nodiscard]] std::uint32_t compacted_offset(unsigned component, std::uint64_t present) const;
};

enum class SaveKind : std::uint8_t { xsave, xsaveopt, xsavec, xsaves };
enum class RestoreKind : std::uint8_t { xrstor, xrstors };

/// Save and restore extended state. `requested` is EDX:EAX. They check alignment and the header as
/// the processor does. Supervisor components (IA32_XSS) count as absent, since no host that needs
/// this has any.
Executed save_extended_state(SaveKind kind, std::uint64_t address, std::uint64_t requested, AddressSpace& space,
                             Access access, ExtendedState& state);
Executed restore_extended_state(RestoreKind kind, std::uint64_t address, std::uint64_t requested, AddressSpace& space,
                                Access access, ExtendedState& state);

/// Carries out RDPKRU and WRPKRU, the instructions of the protection-keys component.
Executed access_protection_keys(bool write, CpuState& cpu, ExtendedState& extended);

}  // namespace snapvm::emulate
