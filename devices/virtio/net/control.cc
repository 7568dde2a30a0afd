// SPDX-License-Identifier: Apache-2.0
// The commands of the control queue (5.1.6.5), and offloads.
#include <array>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/numbers.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::byte kOk{0};
constexpr std::byte kError{1};

// Class and command in one number.
constexpr std::uint16_t kAnnounceAck = 3 << 8 | 0;
constexpr std::uint16_t kOffloadsSet = 5 << 8 | 0;

}  // namespace

std::uint64_t Net::offloads() const { return transport_->features() & kNetGuestOffloads & ~state_.switched_off; }

// An offload without the ones that it depends on (5.1.3.1) is not used.
void Net::set_tap_offloads() {
    const std::uint64_t wanted = offloads();
    const auto wants = [&](std::uint64_t feature) { return (wanted & feature) != 0; };
    unsigned tap = 0;
    if (wants(kNetGuestChecksum)) {
        tap = tap_offload::kChecksum;
        tap |= wants(kNetGuestTso4) ? tap_offload::kTso4 : 0;
        tap |= wants(kNetGuestTso6) ? tap_offload::kTso6 : 0;
        tap |= wants(kNetGuestEcn) && tap != tap_offload::kChecksum ? tap_offload::kTsoEcn : 0;
        tap |= wants(kNetGuestUso4) && wants(kNetGuestUso6) ? tap_offload::kUso : 0;
    }
    if (!gone_ && tap_->set_offloads(tap) == TapAnswer::gone) {
        lose_tap();
    }
}

Status Net::control() {
    return serve(*transport_, kControl, [this](const Chain& chain) -> Result<std::uint32_t> {
        if (chain.writable_bytes == 0) {
            return fail(ErrorKind::invalid, "virtio-net: a command has no room for its answer");
        }
        const std::array<std::byte, 1> answer = {TRY(carry_out(chain)) ? kOk : kError};
        return static_cast<std::uint32_t>(TRY(write_chain(transport_->memory(), chain, 0, answer)));
    });
}

Result<bool> Net::carry_out(const Chain& chain) {
    std::array<std::byte, 10> bytes{};
    const std::size_t size = TRY(read_chain(transport_->memory(), chain, 0, bytes));
    if (size < 2) {
        return false;
    }
    switch (std::to_integer<unsigned>(bytes[0]) << 8 | std::to_integer<unsigned>(bytes[1])) {
        case kAnnounceAck:
            if (!agreed(kNetAnnounce)) {
                return false;
            }
            state_.announce = false;
            return true;
        case kOffloadsSet: {
            const std::uint64_t all = transport_->features() & kNetGuestOffloads;
            const std::uint64_t wanted = Decoder(std::span(bytes).subspan(2)).u64();
            if (!agreed(kNetControlOffloads) || size != bytes.size() || (wanted & ~all) != 0) {
                return false;
            }
            state_.switched_off = all & ~wanted;
            set_tap_offloads();
            return true;
        }
        default: return false;
    }
}

}  // namespace snapvm::virtio
