// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/device.h"

#include "guest-images/ledger/apic.h"
#include "guest-images/ledger/power.h"
#include "guest-images/ledger/serial.h"
#include "guest-images/ledger/virtio/registers.h"

namespace snapvm::guest::virtio {

extern "C" {
volatile u64 device_interrupts[VIRTIO_DEVICES];  // by place; traps.S counts them
}

[[noreturn]] void broken(Type type, const char* why) {
    Line().text("LEDGER BAD virtio device=").number(static_cast<u32>(type)).text(" ").text(why).print();
    exit_guest(1);
}

// Devices fill the places from the first on, so the first empty place ends the search.
bool Device::find(Type type, u32 nth) {
    for (u32 place = 0; place < VIRTIO_DEVICES; ++place) {
        base_ = VIRTIO_BASE + u64{place} * VIRTIO_STRIDE;
        if (get(kMagicValue) != kMagic || get(kVersion) != 2) return false;
        if (get(kDeviceId) != static_cast<u32>(type) || nth-- != 0) continue;
        type_ = type;
        place_ = place;
        reset();
        return true;
    }
    return false;
}

void Device::reset() {
    set(kStatus, 0);
    if (get(kStatus) != 0) broken(type_, "status after a reset");
    if (get(kInterruptStatus) != 0) broken(type_, "interrupt status after a reset");
    features_ = 0;
    acknowledged_ = interrupts();
    config_changed_ = false;
}

void Device::add_status(u32 bit) {
    const u32 now = get(kStatus);
    set(kStatus, now | bit);
    if (get(kStatus) != (now | bit))
        broken(type_, bit == kFeaturesOk ? "features refused" : "status does not read back");
}

void Device::negotiate(u64 wanted) {
    add_status(kAcknowledge);
    add_status(kDriver);
    u64 offered = 0;
    for (u32 half = 0; half < 2; ++half) {
        set(kDeviceFeaturesSel, half);
        offered |= u64{get(kDeviceFeatures)} << half * 32;
    }
    if ((offered & kVersion1) == 0) broken(type_, "no VERSION_1");
    features_ = offered & (wanted | kVersion1);
    for (u32 half = 0; half < 2; ++half) {
        set(kDriverFeaturesSel, half);
        set(kDriverFeatures, static_cast<u32>(features_ >> half * 32));
    }
    add_status(kFeaturesOk);
}

void Device::start() {
    if (!route_interrupt(VIRTIO_PIN + place_, VECTOR_DEVICE + place_)) panic("virtio without an IOAPIC");
    add_status(kDriverOk);
}

u64 Device::config64(u32 offset) const {
    for (;;) {
        const u32 generation = get(kConfigGeneration);
        const u64 value = config32(offset) | u64{config32(offset + 4)} << 32;
        if (get(kConfigGeneration) == generation) return value;
    }
}

u64 Device::interrupts() const { return device_interrupts[place_]; }

void Device::acknowledge() {
    const u64 seen = interrupts();
    if (seen == acknowledged_) return;
    acknowledged_ = seen;
    const u32 causes = get(kInterruptStatus);
    if ((causes & ~(kUsedBuffer | kConfigChange)) != 0) broken(type_, "interrupt status with bits that mean nothing");
    if (causes == 0) return;  // the last acknowledgement covered this interrupt too
    set(kInterruptAck, causes);
    if ((causes & kConfigChange) == 0) return;
    if ((get(kStatus) & kNeedsReset) != 0) broken(type_, "needs a reset");
    config_changed_ = true;
}

bool Device::take_config_change() {
    acknowledge();
    const bool changed = config_changed_;
    config_changed_ = false;
    return changed;
}

}  // namespace snapvm::guest::virtio
