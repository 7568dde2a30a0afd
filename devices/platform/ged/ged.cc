// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/ged/ged.h"

#include <algorithm>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/platform/platform.h"

namespace snapvm {
namespace {

constexpr std::uint8_t kEvents = platform::kPowerButtonEvent;  // all defined events
constexpr std::uint64_t kStatus = 0;
constexpr std::uint64_t kEnable = 1;

}  // namespace

std::vector<std::byte> GedStateV1::encode() const {
    Encoder out;
    out.u8(status);
    out.u8(enable);
    return out.take();
}

Result<GedStateV1> GedStateV1::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    GedStateV1 state;
    state.status = in.u8();
    state.enable = in.u8();
    TRY(in.finish("event device's state"));
    if (((state.status | state.enable) & ~kEvents) != 0) {
        return fail(ErrorKind::invalid, "event device's state has unknown events");
    }
    return state;
}

void Ged::change(GedStateV1 next) {
    const bool was_high = (state_.status & state_.enable) != 0;
    const bool high = (next.status & next.enable) != 0;
    state_ = next;
    if (high != was_high) {
        host_.interrupts->set_level(gsi_, high);
    }
}

bool Ged::press_power_button() {
    const std::lock_guard lock(mutex_);
    GedStateV1 next = state_;
    next.status |= platform::kPowerButtonEvent;
    change(next);
    return (state_.enable & platform::kPowerButtonEvent) != 0;
}

void Ged::read(std::uint64_t offset, std::span<std::byte> data) {
    const std::lock_guard lock(mutex_);
    std::ranges::fill(data, std::byte{0});
    data[0] = std::byte{offset == kStatus ? state_.status : state_.enable};
}

void Ged::write(std::uint64_t offset, std::span<const std::byte> data) {
    const auto value = std::to_integer<std::uint8_t>(data[0]);
    const std::lock_guard lock(mutex_);
    GedStateV1 next = state_;
    if (offset == kStatus) {
        next.status = static_cast<std::uint8_t>(next.status & ~value);
    } else if (offset == kEnable) {
        next.enable = value & kEvents;
    }
    change(next);
}

}  // namespace snapvm
