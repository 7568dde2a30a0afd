// SPDX-License-Identifier: Apache-2.0
// Frames, to and fro.
#include <algorithm>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/numbers.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

/// So much at a time, then the other devices get their turn. A small frame costs as much as a page.
class Turn {
public:
    [[nodiscard]] bool over() const { return left_ == 0; }
    void spend(std::uint64_t bytes) { left_ -= std::min<std::uint64_t>(left_, std::max<std::uint64_t>(bytes, kPageSize)); }

private:
    std::uint64_t left_ = 1 << 20;
};

}  // namespace

// What waits in the tap goes into the driver's buffers, for as long as there are any.
Status Net::receive() {
    Queue& queue = port_->queue(kReceive);
    receiving_ = queue.ready() && !gone_;
    if (!receiving_) {
        return {};
    }
    queue.suppress_notifications();
    for (Turn turn;;) {
        if (turn.over()) {
            port_->ring();
            break;
        }
        const std::uint16_t waiting = TRY(queue.waiting());
        if (waiting > 0 && frame_size_ == 0 && !read_frame()) {
            break;
        }
        turn.spend(frame_size_);
        const bool enough = waiting > 0 && (frame_size_ == 0 || TRY(deliver()));
        if (!enough && !TRY(queue.resume_notifications(waiting))) {
            receiving_ = false;
            break;
        }
    }
    port_->signal_used(kReceive);
    return {};
}

// False: there is none. One that nobody could make sense of is left out, and frame_size_ 0.
bool Net::read_frame() {
    const TapAnswer answer = tap_->read(frame_, frame_size_);
    switch (answer) {
        case TapAnswer::done: break;
        case TapAnswer::gone: lose_tap(); return false;
        default: return false;
    }
    if (frame_size_ < Tap::kHeader + Tap::kEthernetHeader || frame_size_ > Tap::kMaxFrame || !suit_to_driver()) {
        drop_frame();
    }
    return true;
}

void Net::drop_frame() {
    ++counters_.received_dropped;
    frame_size_ = 0;
}

// The kernel leaves to do what it was told the driver can; but a frame may have waited since there was another driver.
bool Net::suit_to_driver() {
    const std::uint64_t can = offloads();
    auto& flags = frame_[0];
    const auto segments = std::to_integer<std::uint8_t>(frame_[1]);
    if ((can & kNetGuestChecksum) == 0) {
        if ((flags & std::byte{kNetNeedsChecksum}) != std::byte{0} || segments != kNetGsoNone) {
            return false;
        }
        flags = std::byte{0};  // that it was found right is not for this driver either (5.1.6.4.1)
    }
    if ((segments & kNetGsoEcn) != 0 && (can & kNetGuestEcn) == 0) {
        return false;
    }
    switch (segments & ~kNetGsoEcn) {
        case kNetGsoNone: return true;
        case kNetGsoTcp4: return (can & kNetGuestTso4) != 0;
        case kNetGsoTcp6: return (can & kNetGuestTso6) != 0;
        case kNetGsoUdp: return (can & kNetGuestUso4) != 0 && (can & kNetGuestUso6) != 0;
        default: return false;
    }
}

// False: it stays here until there are more buffers.
Result<bool> Net::deliver() {
    switch (TRY(take_buffers())) {
        case Room::enough: break;
        case Room::later: return false;
        case Room::never: drop_frame(); return true;
    }
    const auto frame = std::span(frame_).first(frame_size_);
    frame[kNetNumBuffers] = static_cast<std::byte>(taken_);
    frame[kNetNumBuffers + 1] = static_cast<std::byte>(taken_ >> 8);
    filled_.clear();
    std::size_t done = 0;
    for (const Chain& buffer : std::span(buffers_).first(taken_)) {
        const std::size_t part = TRY(write_chain(port_->memory(), buffer, 0, frame.subspan(done)));
        filled_.push_back({buffer.head, static_cast<std::uint32_t>(part)});
        done += part;
    }
    port_->queue(kReceive).push(filled_);  // at once: who finds the first looks for the others
    ++counters_.received_frames;
    counters_.received_bytes += frame_size_ - Tap::kHeader;
    frame_size_ = 0;
    return true;
}

// As many as the frame needs; one, where the driver does not merge them. None, where those there are do not do.
Result<Net::Room> Net::take_buffers() {
    Queue& queue = port_->queue(kReceive);
    const std::size_t most = agreed(kNetMergeBuffers) ? queue.state().size : 1;
    std::uint64_t room = 0;
    std::size_t descriptors = 0;
    bool malformed = false;
    taken_ = 0;
    while (room < frame_size_ && taken_ < most && !malformed) {
        if (taken_ == buffers_.size()) {
            buffers_.emplace_back();
        }
        if (!TRY(queue.pop(buffers_[taken_]))) {
            break;
        }
        const Chain& buffer = buffers_[taken_++];
        room += buffer.writable_bytes;
        descriptors += buffer.writable.size();
        malformed = buffer.writable_bytes < Tap::kHeader;  // 5.1.6.3.1
    }
    if (room >= frame_size_ && !malformed) {
        return Room::enough;
    }
    for (std::size_t i = 0; i < taken_; ++i) {
        queue.unpop();
    }
    if (malformed) {
        return fail(ErrorKind::invalid, "virtio-net: a buffer has no room for a header");
    }
    // A queue that is full gets no more.
    return taken_ == most || descriptors >= queue.state().size ? Room::never : Room::later;
}

Status Net::transmit() {
    Queue& queue = port_->queue(kTransmit);
    queue.suppress_notifications();
    full_ = false;
    for (Turn turn;;) {
        if (turn.over()) {
            port_->ring();
            break;
        }
        if (!TRY(queue.pop(chain_))) {
            if (!TRY(queue.resume_notifications())) {
                break;
            }
            turn.spend(0);
            continue;
        }
        turn.spend(chain_.readable_bytes);
        if (TRY(send(chain_)) == TapAnswer::later) {
            queue.unpop();
            full_ = true;  // the tap calls when it has room
            break;
        }
        queue.push(chain_.head, 0);
    }
    port_->signal_used(kTransmit);
    return {};
}

// Straight out of guest memory. The header is the driver's word, which the kernel checks: it refuses a frame that does not go with it.
Result<TapAnswer> Net::send(const Chain& chain) {
    const std::uint64_t size = chain.readable_bytes;
    TapAnswer answer = gone_ ? TapAnswer::gone : TapAnswer::refused;
    if (!gone_ && size >= Tap::kHeader + Tap::kEthernetHeader && size <= Tap::kMaxFrame) {
        pieces_.clear();
        TRY(for_each_piece(chain.readable, 0, size, [&](Gpa at, std::uint64_t part) -> Status {
            const auto bytes = TRY(port_->memory().span(at, part));
            pieces_.push_back({bytes.data(), bytes.size()});
            return {};
        }));
        answer = tap_->write(pieces_);
    }
    switch (answer) {
        case TapAnswer::done:
            ++counters_.transmitted_frames;
            counters_.transmitted_bytes += size - Tap::kHeader;
            return answer;
        case TapAnswer::later: return answer;
        case TapAnswer::down: set_link(false); break;
        case TapAnswer::gone: lose_tap(); break;
        case TapAnswer::refused: break;
    }
    ++counters_.transmitted_dropped;
    return answer;
}

}  // namespace snapvm::virtio
