// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/console/console.h"

#include <algorithm>
#include <array>

#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::size_t kInput = 0;   // receiveq of port 0
constexpr std::size_t kOutput = 1;  // transmitq of port 0
constexpr std::array<std::uint16_t, 2> kQueueSizes = {64, 64};

}  // namespace

void ConsoleStateV1::encode(Encoder& out) const {
    out.u16(columns);
    out.u16(rows);
    out.blob(input);
    out.u64(output_done);
}

ConsoleStateV1 ConsoleStateV1::decode(Decoder& in) {
    ConsoleStateV1 state;
    state.columns = in.u16();
    state.rows = in.u16();
    const auto typed = in.blob(kMaxInput);
    state.input.assign(typed.begin(), typed.end());
    state.output_done = in.u64();
    return state;
}

Status Console::check(const ConsoleStateV1& state) const {
    if (state.output_done > kMaxChainBytes) {
        return fail(ErrorKind::invalid, "virtio-console: its record has written more of a chain than a chain can hold");
    }
    return {};
}

std::span<const std::uint16_t> Console::queue_sizes() const { return kQueueSizes; }

// struct virtio_console_config: le16 cols, le16 rows. The other fields belong to features that are
// not offered.
void Console::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const std::array<std::uint16_t, 2> size = {state_.columns, state_.rows};
    const auto bytes = std::as_bytes(std::span(size));
    if (offset < bytes.size()) {
        std::ranges::copy(bytes.subspan(offset, std::min(data.size(), bytes.size() - offset)), data.begin());
    }
}

Status Console::attach(Transport& transport) {
    transport_ = &transport;
    return {};
}

void Console::activate() {
    active_ = true;
    // Linux reads the size only after a configuration change. If the size changed before a restored
    // machine ran, the guest has not been told yet.
    if ((transport_->features() & kFeatureSize) != 0) {
        transport_->signal_config();
    }
}

Status Console::notified(std::size_t queue) { return queue == kInput ? give_input() : take_output(); }

void Console::reset() {
    active_ = false;
    state_.input.clear();
    state_.output_done = 0;
}

std::size_t Console::receive(std::span<const std::uint8_t> bytes) {
    if (!active_) {
        return 0;  // stays with the caller until there is a driver
    }
    const std::size_t taken = std::min(bytes.size(), ConsoleStateV1::kMaxInput - state_.input.size());
    const auto part = std::as_bytes(bytes.first(taken));
    state_.input.insert(state_.input.end(), part.begin(), part.end());
    transport_->ring();
    return taken;
}

void Console::resize(std::uint16_t columns, std::uint16_t rows) {
    if (columns == state_.columns && rows == state_.rows) {
        return;
    }
    state_.columns = columns;
    state_.rows = rows;
    if (active_ && (transport_->features() & kFeatureSize) != 0) {
        transport_->signal_config();
    }
}

Status Console::give_input() {
    Queue& queue = transport_->queue(kInput);
    unsigned budget = queue.state().size;
    while (!state_.input.empty()) {
        if (budget-- == 0) {
            transport_->ring();
            break;
        }
        if (!TRY(queue.pop(chain_))) {
            if (!TRY(queue.resume_notifications())) {
                break;
            }
            continue;
        }
        const std::size_t given = TRY(write_chain(transport_->memory(), chain_, 0, state_.input));
        state_.input.erase(state_.input.begin(), state_.input.begin() + static_cast<std::ptrdiff_t>(given));
        queue.push(chain_.head, static_cast<std::uint32_t>(given));
    }
    transport_->signal_used(kInput);
    return {};
}

Status Console::take_output() {
    Queue& queue = transport_->queue(kOutput);
    queue.suppress_notifications();
    for (unsigned budget = queue.state().size;; --budget) {
        if (budget == 0) {
            transport_->ring();
            break;
        }
        if (!TRY(queue.pop(chain_))) {
            if (!TRY(queue.resume_notifications())) {
                break;
            }
            continue;
        }
        if (!TRY(put(chain_))) {
            queue.unpop();  // output_ready() continues where it stopped
            break;
        }
        queue.push(chain_.head, 0);
    }
    transport_->signal_used(kOutput);
    return {};
}

// Puts out the rest of a chain, at most kMostBytes at a time, so that other devices get their turn.
// Returns whether all of it is out.
Result<bool> Console::put(const Chain& chain) {
    constexpr std::uint64_t kMostBytes = 64 << 10;
    std::array<std::byte, 1024> part;
    for (std::uint64_t budget = kMostBytes; state_.output_done < chain.readable_bytes;) {
        if (budget == 0) {
            transport_->ring();
            return false;
        }
        const std::size_t size = TRY(read_chain(transport_->memory(), chain, state_.output_done, part));
        for (const std::byte byte : std::span(part).first(size)) {
            if (!output_.put(static_cast<std::uint8_t>(byte))) {
                return false;
            }
            ++state_.output_done;
        }
        budget -= std::min<std::uint64_t>(budget, size);
    }
    state_.output_done = 0;
    return true;
}

}  // namespace snapvm::virtio
