// SPDX-License-Identifier: Apache-2.0
// What the driver puts into the queues.
#include <algorithm>

#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/balloon/numbers.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

// Of one chain; Linux sends 256. More would keep the other devices waiting, and are not given up.
constexpr std::size_t kMostNumbers = 65536;
// Requests to give pages up, in a row: each may name that many, and take the host a tenth of a second. Linux makes one at a time.
constexpr unsigned kMostRequests = 4;
constexpr std::size_t kStatisticBytes = 10;
constexpr std::size_t kMostStatistics = 64;

bool is_ram(const MemoryBlock& block) { return block.spec().id == BlockId::ram_low || block.spec().id == BlockId::ram_high; }

/// The whole pages in a buffer of the driver's.
struct WholePages {
    Gpa first;
    std::uint64_t count = 0;

    explicit WholePages(const Segment& segment) : first{align_up(segment.at.value, kPageSize)} {
        const std::uint64_t end = align_down(segment.at.value + segment.size, kPageSize);
        count = end > first.value ? (end - first.value) / kPageSize : 0;
    }
};

}  // namespace

std::uint64_t Balloon::ram_bytes() const {
    std::uint64_t bytes = 0;
    for (const MemoryBlock& block : port_->memory().blocks()) {
        bytes += is_ram(block) ? block.spec().size : 0;
    }
    return bytes;
}

Status Balloon::notified(std::size_t queue) {
    switch (queue) {
        case kInflate:
        case kReports: return serve_giving(queue);
        case kDeflate:
            return serve(*port_, queue, [this](const Chain& chain) -> Result<std::uint32_t> {
                TRY(for_numbered_runs(chain, [this](Gpa at, std::uint64_t pages) {
                    for_ram(at, pages, [](MemoryBlock& block, std::size_t, std::uint64_t first, std::uint64_t count) {
                        block.take_back(first, count);
                    });
                }));
                return 0;
            });
        case kStatistics: return take_statistics();
        case kHints: return serve(*port_, queue, [this](const Chain& chain) { return take_hints(chain); });
        default: return {};
    }
}

// Pages named by number, and pages that are buffers themselves.
Status Balloon::serve_giving(std::size_t queue) {
    std::vector<DiscardGate::Pass> passes;
    for (const MemoryBlock& block : port_->memory().blocks()) {
        auto pass = block.discards().enter();
        if (!pass) {
            look_again_soon();
            return {};
        }
        passes.push_back(*std::move(pass));
    }
    const auto take = [this, queue](const Chain& chain) -> Result<std::uint32_t> {
        if (queue == kInflate) {
            TRY(for_numbered_runs(chain, [this](Gpa at, std::uint64_t pages) { give_up(at, pages, false); }));
            return 0;
        }
        // 5.5.6.7.2: what a reported page then holds is zero, or the poison; zeros are all that costs nothing.
        if (!negotiated(kPagePoison) || state_.poison == 0) {
            for (const Segment& segment : chain.writable) {
                const WholePages pages(segment);
                give_up(pages.first, pages.count, true);
            }
        }
        return 0;
    };
    return serve(*port_, queue, take, kMostRequests);
}

void Balloon::give_up(Gpa at, std::uint64_t pages, bool reported) {
    for_ram(at, pages, [reported](MemoryBlock& block, std::size_t, std::uint64_t first, std::uint64_t count) {
        // Where the host will not take them they stay the guest's, type and all: no fault of the driver's.
        (void)block.give_up(first, count, reported ? PageType::free : PageType::balloon);
    });
}

Result<std::vector<std::uint32_t>> Balloon::page_numbers(const Chain& chain) const {
    std::vector<std::uint32_t> numbers(std::min<std::uint64_t>(chain.readable_bytes / sizeof(std::uint32_t), kMostNumbers));
    TRY(read_chain(port_->memory(), chain, 0, std::as_writable_bytes(std::span(numbers))));
    // Drivers name them as they got them, which is often backwards; together they are fewer calls.
    std::ranges::sort(numbers);
    const auto repeated = std::ranges::unique(numbers);
    numbers.erase(repeated.begin(), repeated.end());
    return numbers;
}

template <class Visit>
Status Balloon::for_numbered_runs(const Chain& chain, Visit visit) {
    const std::vector<std::uint32_t> numbers = TRY(page_numbers(chain));
    for (std::size_t i = 0; i < numbers.size();) {
        std::size_t end = i + 1;
        while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) {
            ++end;
        }
        visit(Gpa{numbers[i] * kPageSize}, end - i);
        i = end;
    }
    return {};
}

template <class Visit>
void Balloon::for_ram(Gpa at, std::uint64_t pages, Visit visit) {
    const std::uint64_t from = at.value / kPageSize;
    const auto blocks = port_->memory().blocks();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const std::uint64_t base = blocks[i].spec().base.value / kPageSize;
        const std::uint64_t first = std::max(from, base);
        const std::uint64_t end = std::min(from + pages, base + blocks[i].spec().pages());
        if (is_ram(blocks[i]) && first < end) {
            visit(blocks[i], i, first - base, end - first);
        }
    }
}

// The driver's buffer is kept until the host asks, and given back as the question (5.5.6.3).
Status Balloon::take_statistics() {
    Queue& queue = port_->queue(kStatistics);
    Chain chain;
    for (unsigned budget = queue.state().size;;) {
        if (!TRY(queue.pop(chain))) {
            if (!TRY(queue.resume_notifications())) {
                break;
            }
            continue;
        }
        if (budget-- == 0) {
            queue.unpop();
            port_->ring();  // others have their turn first
            break;
        }
        if (state_.held) {
            queue.push(*state_.held, 0);  // one too many: the newer one is kept
        }
        state_.held = chain.head;
        TRY(read_statistics(chain));
    }
    port_->signal_used(kStatistics);
    return {};
}

Status Balloon::read_statistics(const Chain& chain) {
    std::vector<std::byte> bytes(std::min<std::uint64_t>(chain.readable_bytes / kStatisticBytes, kMostStatistics) *
                                 kStatisticBytes);
    TRY(read_chain(port_->memory(), chain, 0, bytes));
    statistics_.values = {};
    for (Decoder in(bytes); in.left() > 0;) {
        const std::uint16_t tag = in.u16();
        const std::uint64_t value = in.u64();
        if (tag < statistics_.values.size()) {
            statistics_.values[tag] = value;
        }
    }
    ++statistics_.updates;
    return {};
}

Result<std::uint32_t> Balloon::take_hints(const Chain& chain) {
    std::uint32_t id = 0;
    if (chain.readable_bytes >= sizeof id) {
        TRY(read_chain(port_->memory(), chain, 0, std::as_writable_bytes(std::span(&id, 1))));
        hinting_done_ = hinting_done_ || (id == kHintStop && state_.hinting);
        state_.hinting = id == state_.hint_id && id > kHintDone;
    }
    // A poisoned page must come back poisoned.
    if (state_.hinting && hints_ && (!negotiated(kPagePoison) || state_.poison == 0)) {
        for (const Segment& segment : chain.writable) {
            const WholePages pages(segment);
            for_ram(pages.first, pages.count, [this](MemoryBlock&, std::size_t block, std::uint64_t page, std::uint64_t count) {
                hints_(block, page, count);
            });
        }
    }
    return 0;
}

}  // namespace snapvm::virtio
