// SPDX-License-Identifier: Apache-2.0
// Frames to and from the guest.
#include <algorithm>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/numbers.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

/// The work of one call: frames of 1 MiB in total, each counted as one page at least. Then the
/// other devices get their turn.
class Turn {
public:
    [[nodiscard]] bool over() const { return left_ == 0; }
    void spend(std::uint64_t bytes) {
        left_ -= std::min<std::uint64_t>(left_, std::max<std::uint64_t>(bytes, kPageSize));
    }

private:
    std::uint64_t left_ = 1 << 20;
};

}  // namespace

// Moves frames from the tap into the driver's buffers, as long as there are buffers.
Status Net::receive() {
    Queue& queue = transport_->queue(kReceive);
    receiving_ = queue.ready() && !gone_;
    if (!receiving_) {
        return {};
    }
    queue.suppress_notifications();
    for (Turn turn;;) {
        if (turn.over()) {
            transport_->ring();
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
    transport_->signal_used(kReceive);
    return {};
}

// Reads the next frame. Returns false if there is none. Drops one that is malformed or that the
// driver cannot handle; frame_size_ is then 0.
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
    ++received_dropped_;
    frame_size_ = 0;
}

// The kernel leaves to the driver what it was told the driver can do. A frame may have waited since
// there was another driver.
bool Net::suit_to_driver() {
    const std::uint64_t can = offloads();
    auto& flags = frame_[0];
    const auto segments = std::to_integer<std::uint8_t>(frame_[1]);
    if ((can & kNetGuestChecksum) == 0) {
        if ((flags & std::byte{kNetNeedsChecksum}) != std::byte{0} || segments != kNetGsoNone) {
            return false;
        }
        flags = std::byte{0};  // nor may it say that the checksum was verified (5.1.6.4.1)
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

// Returns false if the frame must wait for more buffers.
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
        const std::size_t part = TRY(write_chain(transport_->memory(), buffer, 0, frame.subspan(done)));
        filled_.push_back({buffer.head, static_cast<std::uint32_t>(part)});
        done += part;
    }
    transport_->queue(kReceive).push(filled_);  // all at once: a driver that finds the first looks for the others
    ++received_frames_;
    received_bytes_ += frame_size_ - Tap::kHeader;
    frame_size_ = 0;
    return true;
}

// Takes the buffers that the frame needs; a single one, if the driver does not merge buffers. Takes
// none if those that wait are not enough.
Result<Net::Room> Net::take_buffers() {
    Queue& queue = transport_->queue(kReceive);
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
    // A full queue gets no more buffers.
    return taken_ == most || descriptors >= queue.state().size ? Room::never : Room::later;
}

Status Net::transmit() {
    Queue& queue = transport_->queue(kTransmit);
    queue.suppress_notifications();
    full_ = false;
    for (Turn turn;;) {
        if (turn.over()) {
            transport_->ring();
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
            full_ = true;  // the tap's descriptor tells when there is room
            break;
        }
        queue.push(chain_.head, 0);
    }
    transport_->signal_used(kTransmit);
    return {};
}

// Writes a frame straight from guest memory. The kernel checks the header that the driver wrote,
// and rejects a frame that contradicts it.
Result<TapAnswer> Net::send(const Chain& chain) {
    const std::uint64_t size = chain.readable_bytes;
    TapAnswer answer = gone_ ? TapAnswer::gone : TapAnswer::refused;
    if (!gone_ && size >= Tap::kHeader + Tap::kEthernetHeader && size <= Tap::kMaxFrame) {
        pieces_.clear();
        TRY(for_each_piece(chain.readable, 0, size, [&](Gpa at, std::uint64_t part) -> Status {
            const auto bytes = TRY(transport_->memory().span(at, part));
            pieces_.push_back({bytes.data(), bytes.size()});
            return {};
        }));
        answer = tap_->write(pieces_);
    }
    switch (answer) {
        case TapAnswer::done:
            ++transmitted_frames_;
            transmitted_bytes_ += size - Tap::kHeader;
            return answer;
        case TapAnswer::later: return answer;
        case TapAnswer::down: set_link(false); break;
        case TapAnswer::gone: lose_tap(); break;
        case TapAnswer::refused: break;
    }
    ++transmitted_dropped_;
    return answer;
}

}  // namespace snapvm::virtio
