// SPDX-License-Identifier: Apache-2.0
// The requests that the driver puts into the queues.
#include <algorithm>

#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/balloon/numbers.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

// The most page numbers of one chain that are looked at; Linux sends 256. More would keep the other
// devices waiting, and those pages are not given up.
constexpr std::size_t kMostNumbers = 65536;
// The most chains with pages to give up that are handled in a row. Each may name kMostNumbers
// pages, which takes the host a tenth of a second. Linux sends one chain at a time.
constexpr unsigned kMostRequests = 4;
constexpr std::size_t kStatisticBytes = 10;
constexpr std::size_t kMostStatistics = 64;

bool is_ram(const MemoryBlock& block) {
    return block.spec().id == BlockId::ram_low || block.spec().id == BlockId::ram_high;
}

/// The whole pages in a buffer of the driver.
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
    for (const MemoryBlock& block : transport_->memory().blocks()) {
        bytes += is_ram(block) ? block.spec().size : 0;
    }
    return bytes;
}

Status Balloon::notified(std::size_t queue) {
    switch (queue) {
        case kInflate:
        case kReports: return serve_giving(queue);
        case kDeflate:
            return serve(*transport_, queue, [this](const Chain& chain) -> Result<std::uint32_t> {
                TRY(for_numbered_runs(chain, [this](Gpa at, std::uint64_t pages) {
                    for_ram(at, pages, [](MemoryBlock& block, std::size_t, std::uint64_t first, std::uint64_t count) {
                        block.reclaim(first, count);
                    });
                }));
                return 0;
            });
        case kStatistics: return take_statistics();
        case kHints: return serve(*transport_, queue, [this](const Chain& chain) { return take_hints(chain); });
        default: return {};
    }
}

// Gives up pages that are named by number (inflate), and pages that are buffers themselves
// (reports).
Status Balloon::serve_giving(std::size_t queue) {
    std::vector<DiscardGate::Pass> passes;
    for (const MemoryBlock& block : transport_->memory().blocks()) {
        auto pass = block.discards().enter();
        if (!pass) {
            look_again_soon();
            return {};
        }
        passes.push_back(*std::move(pass));
    }
    const auto take = [this, queue](const Chain& chain) -> Result<std::uint32_t> {
        if (queue == kInflate) {
            TRY(for_numbered_runs(chain, [this](Gpa at, std::uint64_t pages) { discard(at, pages, false); }));
            return 0;
        }
        // 5.5.6.7.2: a reported page must read as zeros or as the poison value afterwards. Only
        // zeros take no memory.
        if (!negotiated(kPagePoison) || state_.poison == 0) {
            for (const Segment& segment : chain.writable) {
                const WholePages pages(segment);
                discard(pages.first, pages.count, true);
            }
        }
        return 0;
    };
    return serve(*transport_, queue, take, kMostRequests);
}

void Balloon::discard(Gpa at, std::uint64_t pages, bool reported) {
    for_ram(at, pages, [=, this](MemoryBlock& block, std::size_t, std::uint64_t first, std::uint64_t count) {
        // If the host cannot take them, they stay the guest's, with their type. That is no fault of
        // the driver.
        if (block.discard(first, count, reported ? PageType::free : PageType::balloon)) {
            discarded_pages_ += count;
        }
    });
}

Result<std::vector<std::uint32_t>> Balloon::page_numbers(const Chain& chain) const {
    std::vector<std::uint32_t> numbers(
        std::min<std::uint64_t>(chain.readable_bytes / sizeof(std::uint32_t), kMostNumbers));
    TRY(read_chain(transport_->memory(), chain, 0, std::as_writable_bytes(std::span(numbers))));
    // Drivers name pages in the order in which they got them, often backwards. Sorted they take
    // fewer calls.
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
    const auto blocks = transport_->memory().blocks();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const std::uint64_t base = blocks[i].spec().base.value / kPageSize;
        const std::uint64_t first = std::max(from, base);
        const std::uint64_t end = std::min(from + pages, base + blocks[i].spec().pages());
        if (is_ram(blocks[i]) && first < end) {
            visit(blocks[i], i, first - base, end - first);
        }
    }
}

// The driver's buffer is kept until the host wants new statistics. Giving it back asks for them
// (5.5.6.3).
Status Balloon::take_statistics() {
    Queue& queue = transport_->queue(kStatistics);
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
            transport_->ring();  // after the other devices had their turn
            break;
        }
        if (state_.held) {
            queue.push(*state_.held, 0);  // the driver sent one too many; the newer one is kept
        }
        state_.held = chain.head;
        TRY(read_statistics(chain));
    }
    transport_->signal_used(kStatistics);
    return {};
}

Status Balloon::read_statistics(const Chain& chain) {
    std::vector<std::byte> bytes(std::min<std::uint64_t>(chain.readable_bytes / kStatisticBytes, kMostStatistics) *
                                 kStatisticBytes);
    TRY(read_chain(transport_->memory(), chain, 0, bytes));
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
        TRY(read_chain(transport_->memory(), chain, 0, std::as_writable_bytes(std::span(&id, 1))));
        hinting_done_ = hinting_done_ || (id == kHintStop && state_.hinting);
        state_.hinting = id == state_.hint_id && id > kHintDone;
    }
    // A guest with a poison value expects it in the page afterwards, and a page left out would be
    // zeros.
    if (state_.hinting && hints_ && (!negotiated(kPagePoison) || state_.poison == 0)) {
        for (const Segment& segment : chain.writable) {
            const WholePages pages(segment);
            for_ram(pages.first, pages.count,
                    [this](MemoryBlock&, std::size_t block, std::uint64_t page, std::uint64_t count) {
                        hints_(block, page, count);
                    });
        }
    }
    return 0;
}

}  // namespace snapvm::virtio
