// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/reset/reset.h"

#include <algorithm>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint8_t kResetCpu = 0x04;

}  // namespace

std::vector<std::byte> ResetStateV1::encode() const {
    Encoder out;
    out.u8(reset_control);
    return out.take();
}

Result<ResetStateV1> ResetStateV1::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    ResetStateV1 state;
    state.reset_control = in.u8();
    TRY(in.finish("reset register's state"));
    if ((state.reset_control & kResetCpu) != 0) {
        return fail(ErrorKind::invalid, "reset register's state asks for a reset");
    }
    return state;
}

void Reset::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    std::ranges::fill(data, std::byte{0});
    data[0] = std::byte{state().reset_control};
}

void Reset::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    const auto value = std::to_integer<std::uint8_t>(data[0]);
    if ((value & kResetCpu) != 0) {
        events_.request(GuestRequest::reboot, 0);
    } else {
        const std::lock_guard lock(mutex_);
        state_.reset_control = value;
    }
}

void Reset::Trigger::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    std::ranges::fill(data, std::byte{0});
}

void Reset::Trigger::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset == 0 && std::to_integer<std::uint8_t>(data[0]) == value_) {
        events_.request(request_, 0);
    }
}

}  // namespace snapvm
