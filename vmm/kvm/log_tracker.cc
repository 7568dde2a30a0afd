// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/log_tracker.h"

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm::kvm {
namespace {

// KVM holds its MMU lock while it clears a range, and vCPUs that fault wait for it. So one call
// clears at most 64 MiB of guest memory.
constexpr std::uint64_t kChunkWords = 256;

}  // namespace

Status LogTracker::clear(std::size_t slot, std::span<const std::uint64_t> words, std::uint64_t first_word,
                         std::uint64_t count) {
    const std::uint64_t first = first_word * 64;
    return vm_.clear_dirty_log(slot, first, std::min(count * 64, vm_.slot_pages(slot) - first), words);
}

Status LogTracker::arm(std::size_t block, std::uint64_t first, std::uint64_t count) {
    const std::uint64_t first_word = first / 64;
    const std::uint64_t end_word = (first + count + 63) / 64;
    for (std::uint64_t word = first_word; word < end_word; word += kChunkWords) {
        const std::uint64_t part = std::min(kChunkWords, end_word - word);
        log_.assign(part, ~0ULL);
        TRY(clear(block, log_, word, part));
    }
    return {};
}

Status LogTracker::collect(DirtySet& into) {
    for (std::size_t slot = 0; slot < vm_.slots(); ++slot) {
        const std::span<std::uint64_t> all = into.words(slot);
        log_.assign(all.size(), 0);
        TRY(vm_.dirty_log(slot, log_));
        for (std::uint64_t word = 0; word < log_.size(); word += kChunkWords) {
            auto part = std::span<const std::uint64_t>(log_).subspan(
                word, std::min<std::uint64_t>(kChunkWords, log_.size() - word));
            std::uint64_t skipped = word;
            while (!part.empty() && part.front() == 0) {
                part = part.subspan(1);
                ++skipped;
            }
            while (!part.empty() && part.back() == 0) {
                part = part.first(part.size() - 1);
            }
            if (!part.empty()) {
                // Cleared before the caller copies these pages, so that a write after the copy sets
                // the bit again. If it were cleared after the copy, a write in between would be
                // lost.
                TRY(clear(slot, part, skipped, part.size()));
            }
        }
        std::ranges::transform(all, log_, all.begin(), std::bit_or<>());
    }
    return {};
}

Status LogTracker::peek(DirtySet& into) {
    for (std::size_t slot = 0; slot < vm_.slots(); ++slot) {
        const std::span<std::uint64_t> all = into.words(slot);
        log_.assign(all.size(), 0);
        TRY(vm_.dirty_log(slot, log_));
        std::ranges::transform(all, log_, all.begin(), std::bit_or<>());
    }
    return {};
}

void LogTracker::stop() {
    // It cannot fail if switching it on succeeded. If it does, the guest is slower, and nothing is
    // lost.
    (void)vm_.track_writes(false);
}

}  // namespace snapvm::kvm
