// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/console/console.h"

#include <algorithm>
#include <array>

#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::size_t kInput = 0;   // receiveq of port 0
constexpr std::size_t kOutput = 1;  // transmitq
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

Result<std::unique_ptr<Console>> Console::create(OutputSink& output, ConsoleStateV1 state) {
    if (state.output_done > kMaxChainBytes) {
        return fail(ErrorKind::invalid, "virtio-console: it has written more of a chain than one can hold");
    }
    return std::unique_ptr<Console>(new Console(output, std::move(state)));
}

std::span<const std::uint16_t> Console::queue_sizes() const { return kQueueSizes; }

// struct virtio_console_config: le16 cols, le16 rows; what follows belongs to features that are not offered.
void Console::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const std::array<std::uint16_t, 2> size = {state_.columns, state_.rows};
    const auto bytes = std::as_bytes(std::span(size));
    if (offset < bytes.size()) {
        std::ranges::copy(bytes.subspan(offset, std::min(data.size(), bytes.size() - offset)), data.begin());
    }
}

Status Console::attach(Port& port) {
    port_ = &port;
    return {};
}

void Console::activate() {
    active_ = true;
    // Linux looks at the size only when it is told that it has changed; and of one that changed before a restored machine ran, nobody told it.
    if ((port_->features() & kFeatureSize) != 0) {
        port_->signal_config();
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
        return 0;  // it waits outside, for a driver that comes
    }
    const std::size_t taken = std::min(bytes.size(), ConsoleStateV1::kMaxInput - state_.input.size());
    const auto part = std::as_bytes(bytes.first(taken));
    state_.input.insert(state_.input.end(), part.begin(), part.end());
    port_->ring();
    return taken;
}

void Console::resize(std::uint16_t columns, std::uint16_t rows) {
    if (columns == state_.columns && rows == state_.rows) {
        return;
    }
    state_.columns = columns;
    state_.rows = rows;
    if (active_ && (port_->features() & kFeatureSize) != 0) {
        port_->signal_config();
    }
}

Status Console::give_input() {
    Queue& queue = port_->queue(kInput);
    unsigned budget = queue.state().size;
    while (!state_.input.empty()) {
        if (budget-- == 0) {
            port_->ring();
            break;
        }
        if (!TRY(queue.pop(chain_))) {
            if (!TRY(queue.resume_notifications())) {
                break;
            }
            continue;
        }
        const std::size_t given = TRY(write_chain(port_->memory(), chain_, 0, state_.input));
        state_.input.erase(state_.input.begin(), state_.input.begin() + static_cast<std::ptrdiff_t>(given));
        queue.push(chain_.head, static_cast<std::uint32_t>(given));
    }
    port_->signal_used(kInput);
    return {};
}

Status Console::take_output() {
    Queue& queue = port_->queue(kOutput);
    queue.suppress_notifications();
    for (unsigned budget = queue.state().size;; --budget) {
        if (budget == 0) {
            port_->ring();
            break;
        }
        if (!TRY(queue.pop(chain_))) {
            if (!TRY(queue.resume_notifications())) {
                break;
            }
            continue;
        }
        if (!TRY(put(chain_))) {
            queue.unpop();  // goes on where it stopped, in `output_ready`
            break;
        }
        queue.push(chain_.head, 0);
    }
    port_->signal_used(kOutput);
    return {};
}

// Whether all of it is out. At most so much at a time that the other devices get their turn.
Result<bool> Console::put(const Chain& chain) {
    constexpr std::uint64_t kMostBytes = 64 << 10;
    std::array<std::byte, 1024> part;
    for (std::uint64_t budget = kMostBytes; state_.output_done < chain.readable_bytes;) {
        if (budget == 0) {
            port_->ring();
            return false;
        }
        const std::size_t size = TRY(read_chain(port_->memory(), chain, state_.output_done, part));
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
