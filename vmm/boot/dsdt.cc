// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/dsdt.h"

#include <string>

#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

using namespace aml;

// The Notify value (ACPI 6.4, sections 5.6.6 and 5.6.7) for a pressed power button. The
// specification of the VM generation ID uses the same.
constexpr std::uint8_t kChanged = 0x80;

Bytes serial() {
    return device("COM1", join({name("_HID", eisa_id("PNP0501")), name("_UID", integer(0)),
                                name("_CRS", resources({io(platform::kSerialPort, 8),
                                                        interrupt(platform::kSerialGsi, Trigger::edge)}))}));
}

Bytes pvpanic() {
    return device("PVPN", join({name("_HID", string("QEMU0001")), name("_UID", integer(0)),
                                name("_CRS", resources({io(platform::kPanicPort, 1)}))}));
}

// Guests find the device by the compatible id, and evaluate ADDR (Microsoft, "Virtual Machine
// Generation ID").
Bytes generation_id() {
    constexpr std::uint64_t kAt = platform::kVmGenIdBase.value;
    return device("VGEN", join({name("_HID", string("SNVM0001")), name("_CID", string("VM_Gen_Counter")),
                                name("_DDN", string("VM_Gen_Counter")), name("_UID", integer(0)),
                                name("ADDR", package({integer(kAt & 0xFFFFFFFF), integer(kAt >> 32)}))}));
}

Bytes power_button() { return device("PWRB", join({name("_HID", eisa_id("PNP0C0C")), name("_UID", integer(0))})); }

// The Generic Event Device (section 5.6.9). The guest calls _EVT with the number of the interrupt.
// The button's interrupt is level-triggered, so it is acknowledged before the guest is notified.
// The guest listens from _INI on.
Bytes events() {
    return device(
        "GED0",
        join({name("_HID", string("ACPI0013")), name("_UID", integer(0)),
              name("_CRS", resources({interrupt(platform::kVmGenIdGsi, Trigger::edge),
                                      interrupt(platform::kEventGsi, Trigger::level)})),
              port_region("EVRG", platform::kEventPort, 2), byte_fields("EVRG", {"STAT", "ENAB"}),
              method("_INI", 0, Serialized::no, {store(integer(platform::kPowerButtonEvent), path("ENAB"))}),
              method("_EVT", 1, Serialized::yes,
                     {when(equal(argument(0), integer(platform::kVmGenIdGsi)), {notify("VGEN", kChanged)}),
                      when(equal(argument(0), integer(platform::kEventGsi)),
                           {store(integer(platform::kPowerButtonEvent), path("STAT")), notify("PWRB", kChanged)})})}));
}

Bytes virtio(std::uint32_t number) {
    const std::string digits = (number < 10 ? "0" : "") + std::to_string(number);
    const Gpa base = platform::kVirtioBase + number * platform::kVirtioStride;
    return device("VR" + digits,
                  join({name("_HID", string("LNRO0005")), name("_UID", integer(number)),
                        name("_CRS", resources({memory32(static_cast<std::uint32_t>(base.value),
                                                         static_cast<std::uint32_t>(platform::kVirtioStride)),
                                                interrupt(platform::kVirtioGsi + number, Trigger::edge)}))}));
}

}  // namespace

Bytes dsdt_body(std::uint32_t virtio_devices) {
    Bytes devices = join({serial(), pvpanic(), generation_id(), power_button(), events()});
    for (std::uint32_t number = 0; number < virtio_devices; ++number) {
        devices = join({devices, virtio(number)});
    }
    // Power-off. The sleep control register takes the first element (section 4.8.3.7); the others
    // are reserved.
    const Bytes soft_off =
        name("_S5_", package({integer(platform::kSoftOffSleepType), integer(0), integer(0), integer(0)}));
    return join({soft_off, scope("_SB_", devices)});
}

}  // namespace snapvm
