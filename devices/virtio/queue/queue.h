// SPDX-License-Identifier: Apache-2.0
// The device's side of a split virtqueue, with indirect descriptors and event indexes. Source: virtio 1.2, 2.7 "Split Virtqueues". All that
// is read of it is the guest's word: copied once, then checked.
#pragma once

#include <cstdint>
#include <span>

#include "devices/virtio/queue/chain.h"
#include "vmm/base/bytes.h"
#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::virtio {

/// What the driver has set, and how far the device is; untrusted until Queue::restore has checked it.
struct QueueStateV1 {
    std::uint16_t size = 0;  ///< entries, a power of two; 0: the driver has said nothing
    bool ready = false;
    Gpa descriptors;
    Gpa available;
    Gpa used;
    std::uint16_t next_available = 0;
    std::uint16_t next_used = 0;
    std::uint16_t signalled = 0;  ///< next_used when the driver was last told

    void encode(Encoder& out) const;
    static QueueStateV1 decode(Decoder& in);
    friend bool operator==(const QueueStateV1&, const QueueStateV1&) = default;
};

/// A chain of one queue is at most this long, in bytes: what a device does for one request is bounded.
inline constexpr std::uint64_t kMaxChainBytes = 256ULL << 20;

/// Used under its device's lock. Errors are the driver's faults (ErrorKind::invalid): the device then needs a reset.
class Queue {
public:
    Queue(GuestMemory& memory, std::uint16_t max_size) : memory_(&memory), max_size_(max_size) {}

    [[nodiscard]] std::uint16_t max_size() const { return max_size_; }
    [[nodiscard]] const QueueStateV1& state() const { return state_; }
    [[nodiscard]] bool ready() const { return state_.ready; }
    /// The driver's settings, while it is not ready.
    void set_size(std::uint16_t size) { state_.size = size; }
    void set_places(Gpa descriptors, Gpa available, Gpa used);
    /// Fails when size or places make no queue.
    Status set_ready();
    /// As it was when the device was built.
    void reset();
    /// Takes over a saved state.
    Status restore(const QueueStateV1& state);
    /// VIRTIO_F_EVENT_IDX, as negotiated.
    void use_event_index(bool use) { event_index_ = use; }

    /// How many chains the driver has put there that were not taken yet.
    [[nodiscard]] Result<std::uint16_t> waiting() const;
    /// Takes the next chain; false where there is none.
    Result<bool> pop(Chain& chain);
    /// Puts back the chain that `pop` gave last, to be given again.
    void unpop() { --state_.next_available; }
    struct Done {
        std::uint16_t head = 0;
        std::uint32_t written = 0;
    };
    /// Gives a chain back, of whose writable buffers the first `written` bytes were written.
    void push(std::uint16_t head, std::uint32_t written) {
        const Done one{head, written};
        push(std::span(&one, 1));
    }
    /// Several: the driver, which may look at any time, sees all of them or none.
    void push(std::span<const Done> chains);
    /// Whether the driver wants to be told of what was pushed since this was last asked.
    [[nodiscard]] bool wants_interrupt();
    /// Spares the driver the notification of more chains: they are looked for anyway.
    void suppress_notifications();
    /// Asks for it again, once more than `known` chains wait; true when they do already, and nobody will tell.
    Result<bool> resume_notifications(std::uint16_t known = 0);

private:
    struct Descriptor;
    Status map();
    [[nodiscard]] std::uint16_t available_index() const;
    Status add(const Descriptor& descriptor, Chain& chain) const;
    Status follow(std::span<const std::byte> table, std::uint16_t first, Chain& chain, unsigned& budget, bool indirect) const;
    Status follow_indirect(const Descriptor& descriptor, Chain& chain, unsigned& budget) const;
    void store_used(std::uint64_t offset, std::uint16_t value);

    GuestMemory* memory_;
    std::uint16_t max_size_;
    QueueStateV1 state_;
    bool event_index_ = false;
    // Of a ready queue; a memory's addresses in the host are fixed.
    std::span<std::byte> descriptors_;
    std::span<std::byte> available_;
    std::span<std::byte> used_;
};

}  // namespace snapvm::virtio
