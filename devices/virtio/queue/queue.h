// SPDX-License-Identifier: Apache-2.0
// The device's side of a split virtqueue, with indirect descriptors and event indexes. Source:
// virtio 1.2, 2.7 "Split Virtqueues". Whatever is read from it is written by the guest: it is
// copied once, then checked.
#pragma once

#include <cstdint>
#include <span>

#include "devices/virtio/queue/chain.h"
#include "vmm/base/bytes.h"
#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::virtio {

/// The driver's settings of a queue, and the device's position in it. Untrusted until
/// Queue::restored has checked it.
struct QueueStateV1 {
    std::uint16_t size = 0;  ///< in entries, a power of two; 0: not set by the driver
    bool ready = false;
    Gpa descriptors;
    Gpa available;
    Gpa used;
    std::uint16_t next_available = 0;
    std::uint16_t next_used = 0;
    std::uint16_t signalled = 0;  ///< next_used when the driver was last interrupted

    void encode(Encoder& out) const;
    static QueueStateV1 decode(Decoder& in);
    friend bool operator==(const QueueStateV1&, const QueueStateV1&) = default;
};

/// The largest size of one chain, in bytes. It limits what a device does for one request.
inline constexpr std::uint64_t kMaxChainBytes = 256ULL << 20;

/// A virtqueue. Used under its device's lock. An error (invalid) is the driver's fault: the device
/// then needs a reset.
class Queue {
public:
    Queue(GuestMemory& memory, std::uint16_t max_size) : memory_(&memory), max_size_(max_size) {}

    /// Returns a queue in a saved state. Fails if that is not valid.
    static Result<Queue> restored(GuestMemory& memory, std::uint16_t max_size, const QueueStateV1& state);

    [[nodiscard]] std::uint16_t max_size() const { return max_size_; }
    [[nodiscard]] const QueueStateV1& state() const { return state_; }
    [[nodiscard]] bool ready() const { return state_.ready; }
    /// Sets what the driver writes to the queue's registers while the queue is not ready.
    void set_size(std::uint16_t size) { state_.size = size; }
    void set_places(Gpa descriptors, Gpa available, Gpa used);
    /// Makes the queue ready. Fails if size or places are not valid.
    Status set_ready();
    /// Puts the queue into the state in which the device was built.
    void reset();
    /// Whether VIRTIO_F_EVENT_IDX was negotiated.
    void use_event_index(bool use) { event_index_ = use; }

    /// Returns the number of chains that the driver has made available and that were not taken yet.
    [[nodiscard]] Result<std::uint16_t> waiting() const;
    /// Takes the next chain. Returns false if there is none.
    Result<bool> pop(Chain& chain);
    /// Reads the chain at `head` again, which was popped and not given back yet. Fails as pop()
    /// does.
    Status read_again(std::uint16_t head, Chain& chain) const;
    /// Undoes the last pop().
    void unpop() { --state_.next_available; }
    struct Done {
        std::uint16_t head = 0;
        std::uint32_t written = 0;
    };
    /// Gives a chain back. The first `written` bytes of its writable buffers were written.
    void push(std::uint16_t head, std::uint32_t written) {
        const Done one{head, written};
        push(std::span(&one, 1));
    }
    /// Gives several chains back. The driver, which may look at any time, sees all of them or none.
    void push(std::span<const Done> chains);
    /// Whether the driver wants an interrupt for what was pushed since the last call.
    [[nodiscard]] bool wants_interrupt();
    /// Tells the driver that it need not notify: the device looks for more chains anyway.
    void suppress_notifications();
    /// Asks for a notification once more than `known` chains wait. Returns true if they do already;
    /// then no notification comes.
    Result<bool> resume_notifications(std::uint16_t known = 0);

private:
    struct Descriptor;
    Status map();
    [[nodiscard]] std::uint16_t available_index() const;
    Status add(const Descriptor& descriptor, Chain& chain) const;
    Status follow(std::span<const std::byte> table, std::uint16_t first, Chain& chain, unsigned& budget,
                  bool indirect) const;
    Status read_chain(std::uint16_t head, Chain& chain) const;
    Status follow_indirect(const Descriptor& descriptor, Chain& chain, unsigned& budget) const;
    void store_used(std::uint64_t offset, std::uint16_t value);

    GuestMemory* memory_;
    std::uint16_t max_size_;
    QueueStateV1 state_;
    bool event_index_ = false;
    // Of a ready queue. The host addresses of a memory block are fixed.
    std::span<std::byte> descriptors_;
    std::span<std::byte> available_;
    std::span<std::byte> used_;
};

}  // namespace snapvm::virtio
