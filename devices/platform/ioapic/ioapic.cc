// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/ioapic/ioapic.h"

#include <algorithm>
#include <cstring>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kSelectOffset = 0x00;
constexpr std::uint64_t kWindowOffset = 0x10;
constexpr std::uint64_t kEoiOffset = 0x40;  // directed EOI, of IOAPICs with version 0x20

constexpr std::uint8_t kIdRegister = 0x00;
constexpr std::uint8_t kVersionRegister = 0x01;
constexpr std::uint8_t kArbitrationRegister = 0x02;
constexpr std::uint8_t kRedirectionTable = 0x10;
constexpr std::uint32_t kVersion = 0x20;

// Redirection entry bits.
constexpr std::uint64_t kVector = 0xFF;
constexpr std::uint64_t kDeliveryMode = 7ULL << 8;
constexpr std::uint64_t kLogicalDestination = 1ULL << 11;
constexpr std::uint64_t kRemoteIrr = 1ULL << 14;
constexpr std::uint64_t kLevelTriggered = 1ULL << 15;
constexpr std::uint64_t kMasked = 1ULL << 16;
constexpr std::uint64_t kReadOnly = (1ULL << 12) | kRemoteIrr;
constexpr std::uint64_t kWritable = 0xFF00'0000'0001'FFFF & ~kReadOnly;

// Intel SDM volume 3, "Message Address Register Format" and "Message Data Register Format".
MsiMessage message_of(std::uint64_t entry) {
    const std::uint64_t destination = entry >> 56;
    const bool logical = (entry & kLogicalDestination) != 0;
    const bool level = (entry & kLevelTriggered) != 0;
    return {
        .address = 0xFEE00000 | destination << 12 | (logical ? 1ULL << 2 : 0),
        .data = static_cast<std::uint32_t>((entry & (kVector | kDeliveryMode)) | (level ? 1U << 15 | 1U << 14 : 0))};
}

}  // namespace

IoApicStateV1::IoApicStateV1() { redirection.fill(kMasked); }

std::vector<std::byte> IoApicStateV1::encode() const {
    Encoder out;
    out.u8(select);
    out.u8(id);
    out.u32(levels);
    for (const std::uint64_t entry : redirection) {
        out.u64(entry);
    }
    return out.take();
}

Result<IoApicStateV1> IoApicStateV1::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    IoApicStateV1 state;
    state.select = in.u8();
    state.id = in.u8();
    state.levels = in.u32();
    for (std::uint64_t& entry : state.redirection) {
        entry = in.u64();
    }
    TRY(in.finish("IOAPIC's state"));
    const bool odd = std::ranges::any_of(state.redirection, [](std::uint64_t entry) {
        const bool stuck = (entry & (kRemoteIrr | kLevelTriggered)) == kRemoteIrr;
        return (entry & ~(kWritable | kRemoteIrr)) != 0 || stuck;
    });
    if (odd || state.levels >> kPins != 0 || state.id > 15) {
        return fail(ErrorKind::invalid, "IOAPIC's state is not possible");
    }
    return state;
}

Status IoApic::restored() {
    const std::lock_guard lock(mutex_);
    publish_routes();
    return {};
}

void IoApic::read(std::uint64_t offset, std::span<std::byte> data) {
    const std::lock_guard lock(mutex_);
    std::uint32_t value = 0;
    if (offset == kSelectOffset) {
        value = state_.select;
    } else if (offset == kWindowOffset) {
        value = read_selected();
    }
    std::ranges::fill(data, std::byte{0});
    std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
}

void IoApic::write(std::uint64_t offset, std::span<const std::byte> data) {
    std::uint32_t value = 0;
    std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
    if (offset == kEoiOffset) {
        end_of_interrupt(static_cast<std::uint8_t>(value));
        return;
    }
    const std::lock_guard lock(mutex_);
    if (offset == kSelectOffset) {
        state_.select = static_cast<std::uint8_t>(value);
    } else if (offset == kWindowOffset) {
        write_selected(value);
    }
}

std::uint32_t IoApic::read_selected() const {
    if (state_.select == kIdRegister || state_.select == kArbitrationRegister) {
        return static_cast<std::uint32_t>(state_.id) << 24;
    }
    if (state_.select == kVersionRegister) {
        return kVersion | (IoApicStateV1::kPins - 1) << 16;
    }
    const std::size_t index = static_cast<std::size_t>(state_.select) - kRedirectionTable;
    if (state_.select < kRedirectionTable || index / 2 >= IoApicStateV1::kPins) {
        return 0xFFFFFFFF;
    }
    return static_cast<std::uint32_t>(state_.redirection[index / 2] >> (index % 2 == 0 ? 0 : 32));
}

void IoApic::write_selected(std::uint32_t value) {
    if (state_.select == kIdRegister) {
        state_.id = value >> 24 & 0x0F;
        return;
    }
    const std::size_t index = static_cast<std::size_t>(state_.select) - kRedirectionTable;
    if (state_.select < kRedirectionTable || index / 2 >= IoApicStateV1::kPins) {
        return;
    }
    const std::size_t pin = index / 2;
    std::uint64_t& entry = state_.redirection[pin];
    const std::uint64_t before = entry;
    const std::uint64_t half = index % 2 == 0 ? (entry & ~0xFFFFFFFFULL) | value
                                              : (entry & 0xFFFFFFFFULL) | static_cast<std::uint64_t>(value) << 32;
    entry = (half & kWritable) | (before & kReadOnly);
    if ((entry & kLevelTriggered) == 0) {
        entry &= ~kRemoteIrr;  // only level-triggered entries have it; Linux clears a stuck one this way
    }
    if (((before | entry) & kLevelTriggered) != 0 && before != entry) {
        publish_routes();
    }
    // A level-triggered pin that is high fires when it is unmasked.
    if ((entry & kLevelTriggered) != 0 && (state_.levels >> pin & 1) != 0) {
        deliver(pin);
    }
}

void IoApic::set_level(std::uint32_t gsi, bool high) {
    if (gsi >= IoApicStateV1::kPins) {
        return;
    }
    const std::lock_guard lock(mutex_);
    const std::uint32_t bit = 1U << gsi;
    const bool was_high = (state_.levels & bit) != 0;
    state_.levels = high ? state_.levels | bit : state_.levels & ~bit;
    if (high && !was_high) {
        deliver(gsi);
    }
}

void IoApic::deliver(std::size_t pin) {
    std::uint64_t& entry = state_.redirection[pin];
    if ((entry & (kMasked | kRemoteIrr)) != 0) {
        return;
    }
    if ((entry & kLevelTriggered) != 0) {
        entry |= kRemoteIrr;
    }
    msi_.deliver(message_of(entry));
}

void IoApic::end_of_interrupt(std::uint8_t vector) {
    const std::lock_guard lock(mutex_);
    for (std::size_t pin = 0; pin < IoApicStateV1::kPins; ++pin) {
        std::uint64_t& entry = state_.redirection[pin];
        if ((entry & kVector) != vector || (entry & (kLevelTriggered | kRemoteIrr)) != (kLevelTriggered | kRemoteIrr)) {
            continue;
        }
        entry &= ~kRemoteIrr;
        if ((state_.levels >> pin & 1) != 0) {
            deliver(pin);
        }
    }
}

std::vector<std::uint8_t> IoApic::awaiting_eoi() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::uint8_t> vectors;
    for (const std::uint64_t entry : state_.redirection) {
        if ((entry & (kLevelTriggered | kRemoteIrr)) == (kLevelTriggered | kRemoteIrr)) {
            vectors.push_back(static_cast<std::uint8_t>(entry & kVector));
        }
    }
    return vectors;
}

// KVM reports only EOIs of level-triggered vectors in its routing table. To replace the table costs
// 0.3 ms, so a machine without level-triggered pins never does, and a table that KVM has is not set
// again. A device that adopts a state in place has most often set that state's routes before.
void IoApic::publish_routes() {
    const bool any_level = std::ranges::any_of(state_.redirection, [](std::uint64_t entry) {
        return (entry & kLevelTriggered) != 0 && (entry & kMasked) == 0;
    });
    if (!any_level) {
        return;
    }
    Routes routes;
    std::ranges::transform(state_.redirection, routes.begin(), message_of);
    if (routes != published_) {
        published_ = routes;
        msi_.set_routes(routes);
    }
}

}  // namespace snapvm
