// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/virtio/net.h"

#include <initializer_list>

namespace snapvm::guest::virtio {
namespace {

constexpr u32 kReceive = 0, kTransmit = 1, kControl = 2;  // queues
constexpr u32 kStatusAt = 6;  // in struct virtio_net_config, after the MAC
constexpr u16 kAskedToAnnounce = 2;  // a bit of the status
constexpr u8 kAnnounceClass = 3, kAnnounceAcknowledged = 0, kOk = 0, kNoAnswer = 0xff;

}  // namespace

bool Net::start(u64 features, bool receives) {
    if (!device_.find(Type::net)) return false;
    device_.negotiate(features);
    if (device_.has(kMac))
        for (u32 i = 0; i < kMacBytes; ++i) mac_[i] = device_.config8(i);
    frames_.set_up(device_, kReceive, kTransmit, receives ? kBuffers : 0, kBufferBytes);
    if (device_.has(kControlQueue)) control_.set_up(device_, kControl, 4);
    make_announcement();
    device_.start();
    frames_.listen();
    return true;
}

// Builds a reverse ARP request for this interface, as hypervisors send it for a guest that has
// moved. It needs the MAC and no other address.
void Net::make_announcement() {
    u8* at = announcement_ + kHeaderBytes;
    const auto put_mac = [&] {
        for (const u8 byte : mac_) *at++ = byte;
    };
    for (u32 i = 0; i < kMacBytes; ++i) *at++ = 0xff;
    put_mac();
    // The type; then Ethernet and IPv4, addresses of 6 and 4 bytes, request reverse.
    for (const u8 byte : {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3}) *at++ = byte;
    for (u32 i = 0; i < 2; ++i) {  // sender and target
        put_mac();
        at += 4;
    }
}

void Net::serve() {
    if (!device_.take_config_change() || !device_.has(kAnnounce) ||
        (device_.config16(kStatusAt) & kAskedToAnnounce) == 0)
        return;
    frames_.send(reinterpret_cast<u64>(announcement_), sizeof announcement_);
    frames_.work();
    acknowledge_announcement();
}

// Source: virtio 1.2, 5.1.6.5.4.
void Net::acknowledge_announcement() {
    command_[0] = kAnnounceClass;
    command_[1] = kAnnounceAcknowledged;
    answer_ = kNoAnswer;
    const Buffer buffers[] = {{reinterpret_cast<u64>(command_), sizeof command_, false},
                              {reinterpret_cast<u64>(&answer_), sizeof answer_, true}};
    control_.add(buffers, 2, 0);
    control_.submit();
    control_.wait(1);
    Used used;
    if (!control_.collect(used) || observe(answer_) != kOk) broken(Type::net, "takes no note of an announcement");
}

}  // namespace snapvm::guest::virtio
