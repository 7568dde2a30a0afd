// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/queue/queue.h"

#include <atomic>
#include <bit>
#include <string>
#include <utility>

#include "vmm/base/try.h"

namespace snapvm::virtio {

/// struct virtq_desc (2.7.5), copied.
struct Queue::Descriptor {
    static constexpr std::size_t kSize = 16;
    static constexpr std::uint16_t kNext = 1;
    static constexpr std::uint16_t kWrite = 2;
    static constexpr std::uint16_t kIndirect = 4;

    Gpa at;
    std::uint32_t size = 0;
    std::uint16_t flags = 0;
    std::uint16_t next = 0;

    /// Entry `index` of a table that has it.
    static Descriptor of(std::span<const std::byte> table, std::size_t index) {
        std::array<std::byte, kSize> bytes;
        std::memcpy(bytes.data(), table.data() + index * kSize, kSize);  // once: what is checked is what is used
        Decoder in(bytes);
        return {Gpa{in.u64()}, in.u32(), in.u16(), in.u16()};
    }
};

namespace {

// struct virtq_avail and virtq_used (2.7.6, 2.7.8).
constexpr std::uint64_t kFlags = 0;
constexpr std::uint64_t kIndex = 2;
constexpr std::uint64_t kRing = 4;
constexpr std::uint64_t kAvailableEntry = 2;
constexpr std::uint64_t kUsedEntry = 8;
constexpr std::uint16_t kNoInterrupt = 1;  // of the available ring's flags
constexpr std::uint16_t kNoNotify = 1;     // of the used ring's

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
        return fault("its size is no power of two that is allowed");
    }
    // 2.7, the table of alignments.
    if (state_.descriptors.value % 16 != 0 || state_.available.value % 2 != 0 || state_.used.value % 4 != 0) {
        return fault("a part of it is not aligned");
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

Status Queue::restore(const QueueStateV1& state) {
    if (!state.ready && (state.next_available != 0 || state.next_used != 0 || state.signalled != 0)) {
        return fault("one that is not ready has come along");
    }
    state_ = state;
    return state.ready ? map() : Status{};
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
        return fault("a buffer to read comes after one to write");
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

// 2.7.5.3: the table has a chain of its own, which ends the outer one.
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

Status Queue::follow(std::span<const std::byte> table, std::uint16_t first, Chain& chain, unsigned& budget, bool indirect) const {
    for (std::size_t index = first;;) {
        if (index >= table.size() / Descriptor::kSize) {
            return fault("a descriptor is not in its table");
        }
        if (budget-- == 0) {
            return fault("a chain is longer than the queue");  // or a ring
        }
        const Descriptor descriptor = Descriptor::of(table, index);
        if ((descriptor.flags & Descriptor::kIndirect) != 0) {
            return indirect ? fault("an indirect table in another") : follow_indirect(descriptor, chain, budget);
        }
        TRY(add(descriptor, chain));
        if ((descriptor.flags & Descriptor::kNext) == 0) {
            return {};
        }
        index = descriptor.next;
    }
}

Result<bool> Queue::pop(Chain& chain) {
    chain.readable.clear();
    chain.writable.clear();
    chain.readable_bytes = chain.writable_bytes = 0;
    if (!state_.ready || TRY(waiting()) == 0) {
        return false;
    }
    // The entry is as new as the index, which was read with acquire.
    const std::uint64_t entry = kRing + kAvailableEntry * (state_.next_available % state_.size);
    chain.head = load(available_, entry);
    unsigned budget = state_.size + 1U;  // the descriptor of an indirect table, and as many in it as the queue is long
    TRY(follow(descriptors_, chain.head, chain, budget, false));
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
    // The driver writes what it wants, then looks at the index; we wrote the index, now look at what it wants (2.7.7.2).
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!event_index_) {
        return (load(available_, kFlags) & kNoInterrupt) == 0;
    }
    const std::uint16_t event = load(available_, kRing + kAvailableEntry * state_.size);
    return static_cast<std::uint16_t>(state_.next_used - event - 1) < static_cast<std::uint16_t>(state_.next_used - before);
}

void Queue::suppress_notifications() {
    // With event indexes there is nothing to do: the driver notifies when it passes the index asked for last (2.7.10).
    if (state_.ready && !event_index_) {
        store_used(kFlags, kNoNotify);
    }
}

Result<bool> Queue::resume_notifications(std::uint16_t known) {
    if (!state_.ready) {
        return false;
    }
    if (event_index_) {
        // The driver tells when it passes this index, and only then: one that it has passed already it never comes by again (2.7.10).
        store_used(kRing + kUsedEntry * state_.size, static_cast<std::uint16_t>(state_.next_available + known));
    } else {
        store_used(kFlags, 0);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);  // as in wants_interrupt, the other way round
    return TRY(waiting()) > known;
}

}  // namespace snapvm::virtio
