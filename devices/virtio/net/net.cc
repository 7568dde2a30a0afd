// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/net/net.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "devices/virtio/net/numbers.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::array<std::uint16_t, kNetQueues> kQueueSizes = {256, 256, 64};

constexpr std::uint64_t kOffered = kNetChecksum | kNetGuestChecksum | kNetControlOffloads | kNetMac | kNetGuestTso4 |
                                   kNetGuestTso6 | kNetGuestEcn | kNetHostTso4 | kNetHostTso6 | kNetHostEcn | kNetMergeBuffers |
                                   kNetStatus | kNetControlQueue | kNetAnnounce;
constexpr std::uint64_t kOfferedWithUso = kNetGuestUso4 | kNetGuestUso6 | kNetHostUso;

// Of the configuration space's status, 5.1.4.
constexpr std::uint8_t kLinkUp = 1;
constexpr std::uint8_t kAnnounceYourself = 2;

}  // namespace

void NetStateV1::encode(Encoder& out) const {
    out.u64(switched_off);
    out.boolean(announce);
}

NetStateV1 NetStateV1::decode(Decoder& in) {
    NetStateV1 state;
    state.switched_off = in.u64();
    state.announce = in.boolean();
    return state;
}

Net::Net(const MacAddress& mac, std::unique_ptr<Tap> tap, const NetStateV1& state)
    : mac_(mac), state_(state), frame_(Tap::kMaxFrame + 1), tap_(std::move(tap)) {}

Result<std::unique_ptr<Net>> Net::create(const MacAddress& mac, std::unique_ptr<Tap> tap, const NetStateV1& state) {
    if ((state.switched_off & ~kNetGuestOffloads) != 0) {
        return fail(ErrorKind::invalid, "virtio-net: its driver has switched off what is no offload");
    }
    return std::unique_ptr<Net>(new Net(mac, std::move(tap), state));
}

std::uint64_t Net::features() const { return kOffered | (tap_->has_uso() ? kOfferedWithUso : 0); }

std::span<const std::uint16_t> Net::queue_sizes() const { return kQueueSizes; }

// struct virtio_net_config: u8 mac[6], le16 status; what follows belongs to features that are not offered.
void Net::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    std::array<std::uint8_t, 8> config{};
    std::ranges::copy(mac_, config.begin());
    config[6] = static_cast<std::uint8_t>((link_up_ ? kLinkUp : 0) | (state_.announce ? kAnnounceYourself : 0));
    const auto bytes = std::as_bytes(std::span(config));
    if (offset < bytes.size()) {
        std::ranges::copy(bytes.subspan(offset, std::min(data.size(), bytes.size() - offset)), data.begin());
    }
}

Status Net::attach(Port& port) {
    port_ = &port;
    link_up_ = tap_->state() == TapAnswer::done;
    return {};
}

void Net::activate() {
    set_tap_offloads();
    look_at_link();
    watch();
}

Status Net::notified(std::size_t queue) {
    const auto serve = [&]() -> Status {
        switch (queue) {
            case kReceive: return receive();
            case kTransmit: return transmit();
            default: return control();
        }
    };
    Status served = serve();
    if (served) {
        watch();
    } else {
        watch_.reset();  // nothing comes from the tap any more until the driver has started over
        watched_ = 0;
    }
    return served;
}

void Net::reset() {
    watch_.reset();
    watched_ = 0;
    receiving_ = full_ = false;
    frame_size_ = 0;
    state_ = {};
    if (!gone_) {
        // Whatever drives it next may be able to do less, and what comes until then waits for it.
        (void)tap_->set_offloads(0);
    }
}

// The network is to learn where the guest is now, and the guest how its link is here (5.1.6.5.4).
Status Net::restored() {
    if (port_->running() && agreed(kNetStatus)) {
        state_.announce = agreed(kNetAnnounce) && agreed(kNetControlQueue);
        port_->signal_config();
    }
    return {};
}

void Net::look_at_link() {
    switch (tap_->state()) {
        case TapAnswer::done: set_link(true); break;
        case TapAnswer::gone: lose_tap(); break;
        default: set_link(link_up_ && full_);  // without room it looks the same
    }
}

void Net::set_link(bool up) {
    if (up == link_up_) {
        return;
    }
    link_up_ = up;
    if (port_->running() && agreed(kNetStatus)) {
        port_->signal_config();
    }
}

void Net::lose_tap() {
    gone_ = true;
    set_link(false);
}

// A tap that is gone is always ready to say so: it is not watched at all. Nor is one with frames for which there are no buffers.
void Net::watch() {
    std::uint32_t wanted = 0;
    if (!gone_ && port_->running()) {
        wanted = (receiving_ ? EPOLLIN : 0U) | (full_ || !link_up_ ? EPOLLOUT : 0U);
    }
    if (wanted == watched_) {
        return;
    }
    watch_.reset();
    watched_ = 0;
    if (wanted == 0) {
        return;
    }
    auto watch = port_->watch(EventLoop::Kind::intake, tap_->event(), wanted, [this] { tap_ready(); });
    if (!watch) {
        lose_tap();
        return;
    }
    watch_ = *std::move(watch);
    watched_ = wanted;
}

void Net::tap_ready() {
    if ((watched_ & EPOLLOUT) != 0) {
        look_at_link();
        if (full_) {
            full_ = false;
            port_->ring();
        }
    }
    if (receiving_ && !receive()) {
        receiving_ = false;
        port_->ring();  // the fault is found again there, and said to whom it concerns
    }
    watch();
}

}  // namespace snapvm::virtio
