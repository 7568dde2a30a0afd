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
                                   kNetGuestTso6 | kNetGuestEcn | kNetHostTso4 | kNetHostTso6 | kNetHostEcn |
                                   kNetMergeBuffers | kNetStatus | kNetControlQueue | kNetAnnounce;
constexpr std::uint64_t kOfferedWithUso = kNetGuestUso4 | kNetGuestUso6 | kNetHostUso;

// Bits of the status in the configuration space, 5.1.4.
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

Net::Net(const MacAddress& mac, std::unique_ptr<Tap> tap)
    : mac_(mac), frame_(Tap::kMaxFrame + 1), tap_(std::move(tap)) {}

Status Net::check(const NetStateV1& state) const {
    if ((state.switched_off & ~kNetGuestOffloads) != 0) {
        return fail(ErrorKind::invalid, "virtio-net: its record switches off offloads that do not exist");
    }
    return {};
}

std::uint64_t Net::features() const { return kOffered | (tap_->has_uso() ? kOfferedWithUso : 0); }

std::span<const std::uint16_t> Net::queue_sizes() const { return kQueueSizes; }

// struct virtio_net_config: u8 mac[6], le16 status. The other fields belong to features that are
// not offered.
void Net::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    std::array<std::uint8_t, 8> config{};
    std::ranges::copy(mac_, config.begin());
    config[6] = static_cast<std::uint8_t>((link_up_ ? kLinkUp : 0) | (state_.announce ? kAnnounceYourself : 0));
    const auto bytes = std::as_bytes(std::span(config));
    if (offset < bytes.size()) {
        std::ranges::copy(bytes.subspan(offset, std::min(data.size(), bytes.size() - offset)), data.begin());
    }
}

Status Net::attach(Transport& transport) {
    transport_ = &transport;
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
        watch_.reset();  // takes nothing from the tap until the driver has reset the device
        watched_ = 0;
    }
    return served;
}

void Net::reset() {
    let_go();
    state_ = {};
}

// Ends what was set up for the driver. A frame that waits here for its buffers is lost.
void Net::let_go() noexcept {
    watch_.reset();
    watched_ = 0;
    receiving_ = full_ = false;
    frame_size_ = 0;
    if (!gone_) {
        // The next driver may support fewer offloads, and frames that arrive until then wait for
        // it.
        (void)tap_->set_offloads(0);
    }
}

// The network must learn where the guest is now, and the guest the state of its link here
// (5.1.6.5.4).
Status Net::restored() {
    if (transport_->running() && agreed(kNetStatus)) {
        state_.announce = agreed(kNetAnnounce) && agreed(kNetControlQueue);
        transport_->signal_config();
    }
    return {};
}

void Net::look_at_link() {
    switch (tap_->state()) {
        case TapAnswer::done: set_link(true); break;
        case TapAnswer::gone: lose_tap(); break;
        default: set_link(link_up_ && full_);  // a full tap cannot be told from one that is down
    }
}

void Net::set_link(bool up) {
    if (up == link_up_) {
        return;
    }
    link_up_ = up;
    if (transport_->running() && agreed(kNetStatus)) {
        transport_->signal_config();
    }
}

void Net::lose_tap() {
    gone_ = true;
    set_link(false);
}

// Does not watch a tap that was removed, because it is always ready to report that. Does not watch
// for frames while there are no buffers for them.
void Net::watch() {
    std::uint32_t wanted = 0;
    if (!gone_ && transport_->running()) {
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
    auto watch = transport_->watch(EventLoop::Kind::intake, tap_->event(), wanted, [this] { tap_ready(); });
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
            transport_->ring();
        }
    }
    if (receiving_ && !receive()) {
        receiving_ = false;
        transport_->ring();  // notified() finds the fault again and reports it
    }
    watch();
}

}  // namespace snapvm::virtio
