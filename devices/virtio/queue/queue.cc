// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/queue/queue.h"

#include <atomic>
#include <bit>
#include <string>
#include <utility>

#include "vmm/base/try.h"

namespace snapvm::virtio {

/// A copied struct virtq_desc (2.7.5).
struct Queue::Descriptor {
    static constexpr std::size_t kSize = 16;
    static constexpr std::uint16_t kNext = 1;
    static constexpr std::uint16_t kWrite = 2;
    static constexpr std::uint16_t kIndirect = 4;

    Gpa at;
    std::uint32_t size = 0;
    std::uint16_t flags = 0;
    std::uint16_t next = 0;

    /// Copies entry `index` of a table, which must have it.
    static Descriptor of(std::span<const std::byte> table, std::size_t index) {
        std::array<std::byte, kSize> bytes;
        // Copied once, so that what is checked is what is used.
        std::memcpy(bytes.data(), table.data() + index * kSize, kSize);
        Decoder in(bytes);
        return {Gpa{in.u64()}, in.u32(), in.u16(), in.u16()};
    }
};

namespace {

// Layout of struct virtq_avail and struct virtq_used (2.7.6, 2.7.8).
constexpr std::uint64_t kFlags = 0;
constexpr std::uint64_t kIndex = 2;
constexpr std::uint64_t kRing = 4;
constexpr std::uint64_t kAvailableEntry = 2;
constexpr std::uint64_t kUsedEntry = 8;
constexpr std::uint16_t kNoInterrupt = 1;  // in the flags of the available ring
constexpr std::uint16_t kNoNotify = 1;     // in the flags of the used ring

std::uint64_t available_bytes(std::uint16_t size) { return kRing + kAvailableEntry * size + 2; }
std::uint64_t used_bytes(std::uint16_t size) { return kRing + kUsedEntry * size + 2; }

std::uint16_t load(std::span<std::byte> ring, std::uint64_t offset) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(ring.data() + offset)).load(std::memory_order_acquire);
}

std::unexpected<Error> fault(const char* what) { return fail(ErrorKind::invalid, std::string("virtqueue: ") + what); }

}  // namespace

void QueueStateV1::encode(Encoder& out) const {
    out.u16(size);
    out.boolean(ready);
    for (const Gpa place : {descriptors, available, used}) {
        out.u64(place.value);
    }
    for (const std::uint16_t index : {next_available, next_used, signalled}) {
        out.u16(index);
    }
}

QueueStateV1 QueueStateV1::decode(Decoder& in) {
    QueueStateV1 state;
    state.size = in.u16();
    state.ready = in.boolean();
    for (Gpa* place : {&state.descriptors, &state.available, &state.used}) {
        place->value = in.u64();
    }
    for (std::uint16_t* index : {&state.next_available, &state.next_used, &state.signalled}) {
        *index = in.u16();
    }
    return state;
}

void Queue::set_places(Gpa descriptors, Gpa available, Gpa used) {
    state_.descriptors = descriptors;
    state_.available = available;
    state_.used = used;
}

Status Queue::map() {
    const std::uint16_t size = state_.size;
    if (!std::has_single_bit(size) || size > max_size_) {
        return fault("its size is not a power of two, or is too large");
    }
    // The alignments of the table in 2.7.
    if (state_.descriptors.value % 16 != 0 || state_.available.value % 2 != 0 || state_.used.value % 4 != 0) {
        return fault("one of its tables is not aligned");
    }
    descriptors_ = TRY(memory_->span(state_.descriptors, Descriptor::kSize * size));
    available_ = TRY(memory_->span(state_.available, available_bytes(size)));
    used_ = TRY(memory_->span(state_.used, used_bytes(size)));
    return {};
}

Status Queue::set_ready() {
    TRY(map());
    state_.ready = true;
    return {};
}

void Queue::reset() { *this = Queue(*memory_, max_size_); }

Result<Queue> Queue::restored(GuestMemory& memory, std::uint16_t max_size, const QueueStateV1& state) {
    if (!state.ready && (state.next_available != 0 || state.next_used != 0 || state.signalled != 0)) {
        return fault("a queue that is not ready has indexes");
    }
    Queue queue(memory, max_size);
    queue.state_ = state;
    if (state.ready) {
        TRY(queue.map());
    }
    return queue;
}

std::uint16_t Queue::available_index() const { return load(available_, kIndex); }

Result<std::uint16_t> Queue::waiting() const {
    const auto count = static_cast<std::uint16_t>(available_index() - state_.next_available);
    if (count > state_.size) {
        return fault("the driver's index is further ahead than the queue is long");
    }
    return count;
}

Status Queue::add(const Descriptor& descriptor, Chain& chain) const {
    const bool writable = (descriptor.flags & Descriptor::kWrite) != 0;
    if (!writable && !chain.writable.empty()) {
        return fault("a buffer to read is behind one to write");
    }
    if (chain.readable_bytes + chain.writable_bytes + descriptor.size > kMaxChainBytes) {
        return fault("a chain is too large");
    }
    if (descriptor.size == 0) {
        return {};
    }
    TRY(memory_->span(descriptor.at, descriptor.size));
    (writable ? chain.writable : chain.readable).push_back({descriptor.at, descriptor.size});
    (writable ? chain.writable_bytes : chain.readable_bytes) += descriptor.size;
    return {};
}

// 2.7.5.3: an indirect table holds a chain of its own, which ends the outer one.
Status Queue::follow_indirect(const Descriptor& descriptor, Chain& chain, unsigned& budget) const {
    const std::uint32_t entries = descriptor.size / Descriptor::kSize;
    if ((descriptor.flags & Descriptor::kNext) != 0 || descriptor.size % Descriptor::kSize != 0 || entries == 0) {
        return fault("an indirect table is malformed");
    }
    if (entries > state_.size) {
        return fault("an indirect table is longer than the queue");
    }
    std::vector<std::byte> table(descriptor.size);
    TRY(memory_->read(descriptor.at, table));
    return follow(table, 0, chain, budget, true);
}

Status Queue::follow(std::span<const std::byte> table, std::uint16_t first, Chain& chain, unsigned& budget,
                     bool indirect) const {
    for (std::size_t index = first;;) {
        if (index >= table.size() / Descriptor::kSize) {
            return fault("a descriptor is not in its table");
        }
        if (budget-- == 0) {
            return fault("a chain is longer than the queue");  // or a loop
        }
        const Descriptor descriptor = Descriptor::of(table, index);
        if ((descriptor.flags & Descriptor::kIndirect) != 0) {
            return indirect ? fault("an indirect table is in another one") : follow_indirect(descriptor, chain, budget);
        }
        TRY(add(descriptor, chain));
        if ((descriptor.flags & Descriptor::kNext) == 0) {
            return {};
        }
        index = descriptor.next;
    }
}

Status Queue::read_chain(std::uint16_t head, Chain& chain) const {
    chain.readable.clear();
    chain.writable.clear();
    chain.readable_bytes = chain.writable_bytes = 0;
    chain.head = head;
    unsigned budget = state_.size + 1U;  // an indirect descriptor, and a table as long as the queue
    return follow(descriptors_, head, chain, budget, false);
}

Status Queue::read_again(std::uint16_t head, Chain& chain) const {
    return state_.ready ? read_chain(head, chain) : fault("a chain was taken from a queue that is not ready");
}

Result<bool> Queue::pop(Chain& chain) {
    if (!state_.ready || TRY(waiting()) == 0) {
        return false;
    }
    // The entry is at least as new as the index, which was loaded with acquire.
    const std::uint64_t entry = kRing + kAvailableEntry * (state_.next_available % state_.size);
    TRY(read_chain(load(available_, entry), chain));
    ++state_.next_available;
    return true;
}

void Queue::store_used(std::uint64_t offset, std::uint16_t value) {
    std::atomic_ref(*reinterpret_cast<std::uint16_t*>(used_.data() + offset)).store(value, std::memory_order_release);
    memory_->mark_written(state_.used + offset, sizeof value);
}

void Queue::push(std::span<const Done> chains) {
    for (const Done& chain : chains) {
        const std::uint64_t entry = kRing + kUsedEntry * (state_.next_used % state_.size);
        const std::array<std::uint32_t, 2> element = {chain.head, chain.written};
        std::memcpy(used_.data() + entry, element.data(), sizeof element);
        memory_->mark_written(state_.used + entry, sizeof element);
        ++state_.next_used;
    }
    store_used(kIndex, state_.next_used);
}

bool Queue::wants_interrupt() {
    const std::uint16_t before = std::exchange(state_.signalled, state_.next_used);
    if (!state_.ready || before == state_.next_used) {
        return false;
    }
    // The driver writes what it wants and then reads the index; the device has written the index
    // and now reads what the driver wants (2.7.7.2). The fence keeps that order.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!event_index_) {
        return (load(available_, kFlags) & kNoInterrupt) == 0;
    }
    const std::uint16_t event = load(available_, kRing + kAvailableEntry * state_.size);
    return static_cast<std::uint16_t>(state_.next_used - event - 1) <
           static_cast<std::uint16_t>(state_.next_used - before);
}

void Queue::suppress_notifications() {
    // With event indexes nothing is to be written: the driver notifies only when it passes the
    // index that was asked for last (2.7.10).
    if (state_.ready && !event_index_) {
        store_used(kFlags, kNoNotify);
    }
}

Result<bool> Queue::resume_notifications(std::uint16_t known) {
    if (!state_.ready) {
        return false;
    }
    if (event_index_) {
        // The driver notifies when it passes this index. If it has passed it already, no
        // notification comes (2.7.10).
        store_used(kRing + kUsedEntry * state_.size, static_cast<std::uint16_t>(state_.next_available + known));
    } else {
        store_used(kFlags, 0);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);  // as in wants_interrupt(), for the other direction
    return TRY(waiting()) > known;
}

}  // namespace snapvm::virtio
