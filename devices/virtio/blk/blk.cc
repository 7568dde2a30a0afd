// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/blk/blk.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#include "devices/disk/image/overlay.h"
#include "devices/disk/layer_mark.h"
#include "devices/virtio/mmio/mmio.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::array<std::uint16_t, 1> kQueueSizes = {Disk::kMaxInFlight};
constexpr std::size_t kIdSize = 20;

Error stop_error(const std::string& disk, int error) {
    const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return {ErrorKind::system,
            disk + ": " + (full ? "no space is left" : "a write failed") + " (" +
                std::generic_category().message(error) + ")",
            full ? "make room" : "remove the cause"};
}

}  // namespace

Result<std::uint64_t> disk_bytes_in(const StateRecord& record) {
    Decoder in(record.bytes);
    (void)MmioStateV1::decode(in);
    const BlkStateV1 state = BlkStateV1::decode(in);
    TRY(in.finish("virtio-blk's state"));
    if (state.sectors > std::numeric_limits<std::uint64_t>::max() / kSectorSize) {
        return fail(ErrorKind::invalid, "virtio-blk: a disk of " + std::to_string(state.sectors) + " sectors");
    }
    return state.sectors * kSectorSize;
}

Blk::Blk(std::string id, std::unique_ptr<Disk> disk, Stopped stopped)
    : StatefulDevice(BlkStateV1{.sectors = disk->size() / kSectorSize, .block_size = disk->block_size(), .kept = {}}),
      id_(std::move(id)),
      on_stop_(std::move(stopped)),
      slots_(Disk::kMaxInFlight),
      bytes_(disk->size()),
      disk_(std::move(disk)) {
    for (Slot& slot : slots_) {
        free_.push_back(&slot);
    }
}

// The guest keeps the block size that it knows, even if the disk has another one now.
Status Blk::check(const BlkStateV1& state) const {
    if (state.sectors != disk_->size() / kSectorSize) {
        return fail(ErrorKind::invalid,
                    disk_->name() + " has " + std::to_string(disk_->size() / kSectorSize) +
                        " sectors, and the saved machine's disk had " + std::to_string(state.sectors),
                    "give it the disk that it was saved with, or a copy");
    }
    if (!std::has_single_bit(state.block_size) || state.block_size < kSectorSize || state.block_size > kPageSize) {
        return fail(ErrorKind::invalid,
                    "virtio-blk: the saved block size " + std::to_string(state.block_size) + " is not possible");
    }
    if (state.kept.size() > slots_.size()) {
        return fail(ErrorKind::invalid, "virtio-blk: " + std::to_string(state.kept.size()) + " kept requests");
    }
    return {};
}

Blk::~Blk() {
    watch_.reset();
    disk_.reset();
    if (in_flight_ > 0) {
        transport_->loop().end_work();
    }
}

std::span<const std::uint16_t> Blk::queue_sizes() const { return kQueueSizes; }

Status Blk::attach(Transport& transport) {
    transport_ = &transport;
    TRY(disk_->start());
    watch_ = TRY(transport.watch(EventLoop::Kind::completion, disk_->event(), EPOLLIN, [this] { completions(); }));
    return {};
}

Status Blk::notified(std::size_t queue_index) {
    if (stopped_) {
        return {};
    }
    Queue& queue = transport_->queue(queue_index);
    queue.suppress_notifications();
    Status taken;
    for (unsigned budget = queue.state().size; taken; --budget) {
        if (free_.empty()) {
            full_ = true;  // a driver that respects the queue's size does not get here
            break;
        }
        if (budget == 0) {
            transport_->ring();
            break;
        }
        Slot& slot = *free_.back();
        const auto popped = next(queue, slot.chain);
        if (popped && *popped) {
            free_.pop_back();
            taken = take(slot);
            continue;
        }
        const auto more = popped ? queue.resume_notifications() : popped;
        if (!more) {
            taken = fail(more.error());
        } else if (!*more) {
            break;
        }
    }
    // Chains before the malformed one were begun and go on.
    disk_->submit();
    transport_->signal_used(queue_index);
    return taken;
}

// Takes the next chain: one whose request is kept, before those of the queue.
Result<bool> Blk::next(Queue& queue, Chain& chain) {
    if (state_.kept.empty()) {
        return queue.pop(chain);
    }
    const std::uint16_t head = state_.kept.front();
    state_.kept.erase(state_.kept.begin());
    TRY(queue.read_again(head, chain));
    return true;
}

Status Blk::take(Slot& slot) {
    const BlkLimits limits{state_.sectors, disk_->read_only(), transport_->features()};
    if (Status parsed = parse_request(transport_->memory(), slot.chain, limits, slot.request); !parsed) {
        free_.push_back(&slot);
        return parsed;
    }
    begin(slot);
    return {};
}

void Blk::begin(Slot& slot) {
    const BlkRequest& request = slot.request;
    slot.offset = request.offset;
    slot.size = request.size;
    slot.buffers.clear();
    slot.ranges_left = 0;
    // A driver that has not negotiated flushes never asks for one: its writes must be durable when
    // they complete (5.2.5.2).
    slot.durable = (transport_->features() & kBlkFlush) == 0;
    if (request.status != kBlkOk) {
        answer(slot, request.status);
        return;
    }
    switch (request.type) {
        case BlkType::get_id: {
            std::array<std::byte, kIdSize> id{};
            std::memcpy(id.data(), id_.data(), std::min(id_.size(), id.size()));
            const auto part = std::span(id).first(std::min<std::uint64_t>(request.size, id.size()));
            answer(slot, write_chain(transport_->memory(), slot.chain, 0, part) ? kBlkOk : kBlkIoError);
            return;
        }
        case BlkType::flush:
            slot.kind = DiskRequest::Kind::flush;
            if (disk_->read_only()) {
                answer(slot, kBlkOk);
            } else {
                send(slot);
            }
            return;
        case BlkType::discard:
        case BlkType::write_zeroes:
            slot.kind = request.type == BlkType::discard ? DiskRequest::Kind::discard : DiskRequest::Kind::write_zeroes;
            if (request.ranges.empty()) {
                answer(slot, kBlkOk);
                return;
            }
            slot.ranges_left = request.ranges.size();
            set_range(slot);
            send(slot);
            return;
        case BlkType::in:
        case BlkType::out: break;
    }
    const bool in = request.type == BlkType::in;
    slot.kind = in ? DiskRequest::Kind::read : DiskRequest::Kind::write;
    const std::uint64_t header = slot.chain.readable_bytes - request.size;
    const Status mapped = for_each_piece(in ? slot.chain.writable : slot.chain.readable, in ? 0 : header, request.size,
                                         [&](Gpa at, std::uint64_t size) -> Status {
                                             const auto bytes = TRY(transport_->memory().span(at, size));
                                             slot.buffers.push_back({bytes.data(), bytes.size()});
                                             return {};
                                         });
    if (!mapped || request.size == 0) {
        answer(slot, mapped ? kBlkOk : kBlkIoError);
        return;
    }
    send(slot);
}

void Blk::set_range(Slot& slot) {
    const BlkRange& range = slot.request.ranges[slot.request.ranges.size() - slot.ranges_left--];
    slot.offset = range.offset;
    slot.size = range.size;
    slot.unmap = range.unmap;
}

void Blk::send(Slot& slot) {
    if (in_flight_++ == 0) {
        transport_->loop().begin_work();
    }
    unsettled_ = unsettled_ || (slot.kind != DiskRequest::Kind::read && slot.kind != DiskRequest::Kind::flush);
    disk_->add(slot);
}

// A driver that is not there yet reads the new size when it comes.
Status Blk::resize(std::optional<std::uint64_t> bytes) {
    TRY(disk_->resize(bytes));
    bytes_ = disk_->size();
    const std::uint64_t sectors = bytes_ / kSectorSize;
    if (std::exchange(state_.sectors, sectors) != sectors && transport_->running()) {
        transport_->signal_config();
    }
    return {};
}

void Blk::settle() {
    if (!unsettled_ || !disk_->has_tables() || settling_ != nullptr || free_.empty()) {
        return;
    }
    unsettled_ = false;
    settling_ = free_.back();
    free_.pop_back();
    settling_->kind = DiskRequest::Kind::flush;
    settling_->buffers.clear();
    send(*settling_);
    disk_->submit();
}

Status Blk::prepare_overlay(disk::Overlay overlay) {
    next_event_ = TRY(disk_->prepare_overlay(std::move(overlay)));
    return {};
}

Result<std::unique_ptr<Disk>> Blk::continue_in_overlay(const disk::LayerMark& mark, const std::string& path) {
    if (in_flight_ > 0) {
        return fail(ErrorKind::busy, disk_->name() + " has requests in flight, and the machine has ended");
    }
    std::unique_ptr<Transport::Watch> watch;
    if (next_event_ != disk_->event()) {
        watch = TRY(transport_->watch(EventLoop::Kind::completion, next_event_, EPOLLIN, [this] { completions(); }));
    }
    auto next = disk_->continue_in_overlay(mark, path);
    if (next && *next != nullptr) {
        watch_ = std::move(watch);
        disk_.swap(*next);
    }
    return next;
}

Status Blk::settled() const {
    if (settle_error_ == 0) {
        return {};
    }
    return fail(
        ErrorKind::system,
        disk_->name() + ": its tables cannot be written (" + std::generic_category().message(settle_error_) + ")",
        "make room, or remove the cause, and try again");
}

void Blk::completions() {
    const unsigned before = in_flight_;
    disk_->reap([this](DiskRequest& request, int error) { ended(static_cast<Slot&>(request), error); });
    disk_->submit();
    transport_->signal_used(0);
    // Does not call notified() here: the intake may be held, and then nothing new is begun.
    if (full_ && !free_.empty()) {
        full_ = false;
        transport_->ring();
    }
    if (before > 0 && in_flight_ == 0) {
        transport_->loop().end_work();
    }
}

void Blk::ended(Slot& slot, int error) {
    if (&slot == settling_) {
        settling_ = nullptr;
        settle_error_ = error;
        unsettled_ = unsettled_ || error != 0;
        free_.push_back(&slot);
        --in_flight_;
        return;
    }
    if (error == 0 && slot.ranges_left > 0) {
        set_range(slot);
        disk_->add(slot);
        return;
    }
    if (error != 0 && on_stop_ && slot.kind != DiskRequest::Kind::read) {
        keep(slot, error);
    } else {
        answer(slot, error == 0 ? kBlkOk : kBlkIoError);
    }
    --in_flight_;
}

// The driver has the chain's buffers set aside until it gets them back, so their contents need no
// copy. A request is repeated as a whole: repeated ranges have the same effect.
void Blk::keep(Slot& slot, int error) {
    state_.kept.push_back(slot.chain.head);
    free_.push_back(&slot);
    if (!std::exchange(stopped_, true)) {
        on_stop_(stop_error(disk_->name(), error));
    }
}

void Blk::go_on() {
    if (std::exchange(stopped_, false)) {
        transport_->ring();
    }
}

void Blk::forget_kept() {
    state_.kept.clear();
    stopped_ = false;
}

void Blk::answer(Slot& slot, std::uint8_t status) {
    const Chain& chain = slot.chain;
    GuestMemory& memory = transport_->memory();
    const bool in = slot.request.type == BlkType::in;
    // Marked here, where the data has arrived, and not where the request was begun. A failed read
    // may have written part of it, so it counts too.
    if (in && !slot.buffers.empty()) {
        (void)for_each_piece(chain.writable, 0, slot.request.size, [&](Gpa at, std::uint64_t size) -> Status {
            memory.mark_written(at, size);
            return {};
        });
    }
    const std::array<std::byte, 1> last = {static_cast<std::byte>(status)};
    (void)write_chain(memory, chain, chain.writable_bytes - 1, last);
    // The reported length counts bytes written from the first one on (2.7.8.2), and the status is
    // the last byte.
    const bool all = chain.writable_bytes == 1 || (in && status == kBlkOk) ||
                     (slot.request.type == BlkType::get_id && chain.writable_bytes - 1 <= kIdSize);
    transport_->queue(0).push(chain.head, all ? static_cast<std::uint32_t>(chain.writable_bytes) : 0);
    free_.push_back(&slot);
}

void Blk::drain() {
    transport_->loop().wait([this] { return in_flight_ == 0; });
}

}  // namespace snapvm::virtio
