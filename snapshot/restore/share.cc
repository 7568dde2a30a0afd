// SPDX-License-Identifier: Apache-2.0
#include "snapshot/restore/share.h"

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "snapshot/format/page_array.h"
#include "snapshot/format/page_entry.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Pages [first, first + count) repeat the pages from `source` on. Pages are numbered over all
// blocks, as in the entries.
struct Repeat {
    std::uint64_t first = 0;
    std::uint64_t source = 0;
    std::uint64_t count = 0;
};

bool overlap(std::uint64_t a, std::uint64_t a_count, std::uint64_t b, std::uint64_t b_count) {
    return a < b + b_count && b < a + a_count;
}

// Walks the entries once and joins shared pages to runs whose sources are adjacent too. A source
// need not be the page that the entry names: it may repeat that page itself. Otherwise a run would
// end at each page whose data also occurs before the source.
class RepeatFinder {
public:
    RepeatFinder(const SnapshotOrigin& origin, std::span<const MemoryBlock> blocks, std::uint64_t min_pages)
        : origin_(origin), blocks_(blocks), min_pages_(std::max<std::uint64_t>(min_pages, 1)) {}

    Result<std::vector<Repeat>> find() {
        std::uint64_t pages = 0;
        for (const MemoryBlock& block : blocks_) {
            pages += block.spec().pages();
        }
        firsts_ = TRY(PageArray<std::uint64_t>::of(pages));
        for (const MemoryBlock& block : blocks_) {
            TRY(walk(block));
            base_ += block.spec().pages();
        }
        return std::move(found_);
    }

private:
    Status walk(const MemoryBlock& block) {
        std::array<std::uint64_t, 4096> words;
        for (std::uint64_t first = 0; first < block.spec().pages(); first += words.size()) {
            const auto part =
                std::span(words).first(std::min<std::uint64_t>(words.size(), block.spec().pages() - first));
            TRY(origin_.read_words(block.spec().id, first, part));
            for (std::uint64_t i = 0; i < part.size(); ++i) {
                // 0 is class absent, as most pages of a large guest are.
                if (part[i] == 0 || !TRY(note(block, first + i, part[i]))) {
                    end_run();
                }
            }
        }
        end_run();
        return {};
    }

    // Returns whether the page was added to a run.
    Result<bool> note(const MemoryBlock& block, std::uint64_t page, std::uint64_t word) {
        auto entry = PageEntry::decode(word);
        if (!entry) {
            return fail(refuse(block, page, entry.error().what()));
        }
        const std::uint64_t number = base_ + page;
        if (entry->page_class != PageClass::shared) {
            if (has_data(entry->page_class)) {
                firsts_[number] = number + 1;
            }
            return false;
        }
        if (entry->shares >= number || !is_first(entry->shares)) {
            return fail(refuse(block, page, "shares a page that is not the first with its data"));
        }
        firsts_[number] = entry->shares + 1;
        if (block.overlaid(page, 1)) {
            return false;
        }
        if (!goes_on(number)) {
            end_run();
            run_ = {number, entry->shares, 0};
            source_end_ = end_of_block(entry->shares);
        }
        ++run_.count;
        return true;
    }

    [[nodiscard]] bool is_first(std::uint64_t number) const { return firsts_[number] == number + 1; }

    [[nodiscard]] bool goes_on(std::uint64_t number) const {
        const std::uint64_t source = run_.source + run_.count;
        // A source within the run would be mapped onto other pages itself.
        return run_.count > 0 && source < source_end_ && source < run_.first && firsts_[source] == firsts_[number];
    }

    void end_run() {
        if (run_.count >= min_pages_) {
            found_.push_back(run_);
        }
        run_.count = 0;
    }

    [[nodiscard]] std::uint64_t end_of_block(std::uint64_t number) const {
        std::uint64_t end = 0;
        for (const MemoryBlock& block : blocks_) {
            end += block.spec().pages();
            if (number < end) {
                break;
            }
        }
        return end;
    }

    [[nodiscard]] Error refuse(const MemoryBlock& block, std::uint64_t page, const std::string& why) const {
        return {ErrorKind::invalid,
                origin_.file().name + ": the entry of page " + std::to_string(page) + " of block " +
                    std::string(name_of(block.spec().id)) + ": " + why,
                "the area is damaged: check it with snapvm verify, or restore without --share, which does not use the "
                "entries"};
    }

    const SnapshotOrigin& origin_;
    std::span<const MemoryBlock> blocks_;
    std::uint64_t min_pages_;
    std::uint64_t base_ = 0;  // first page of the block that is walked, counted over all blocks
    PageArray<std::uint64_t> firsts_;  // by page: the first page with the same data, plus one; 0: no data
    Repeat run_;
    std::uint64_t source_end_ = 0;
    std::vector<Repeat> found_;
};

// Chooses the longest runs. Leaves out a run whose source is part of a chosen run, or the other way
// round: both copies would stay in memory, and nothing would be saved.
std::vector<Repeat> choose(std::vector<Repeat> found, std::uint32_t max_runs) {
    std::ranges::stable_sort(found, std::ranges::greater{}, &Repeat::count);
    std::vector<Repeat> chosen;
    for (const Repeat& run : found) {
        if (chosen.size() >= max_runs) {
            break;
        }
        const auto in_the_way = [&](const Repeat& other) {
            return overlap(run.first, run.count, other.source, other.count) ||
                   overlap(run.source, run.count, other.first, other.count);
        };
        if (std::ranges::none_of(chosen, in_the_way)) {
            chosen.push_back(run);
        }
    }
    return chosen;
}

}  // namespace

Result<SharingReport> share_pages(const SnapshotOrigin& origin, std::span<MemoryBlock> blocks,
                                  const SharingLimits& limits) {
    const auto place_of = [&](std::uint64_t number) {
        std::size_t block = 0;
        while (number >= blocks[block].spec().pages()) {
            number -= blocks[block++].spec().pages();
        }
        return std::pair(&blocks[block], number);
    };
    SharingReport report;
    for (const Repeat& run : choose(TRY(RepeatFinder(origin, blocks, limits.min_pages).find()), limits.max_runs)) {
        const auto [block, first] = place_of(run.first);
        const auto [source, source_first] = place_of(run.source);
        const BlockId id = source->spec().id;
        const Section* data = origin.superblock().find(SectionKind::data, static_cast<std::uint32_t>(id));
        TRY(block->share({first, run.count, id, source_first}, origin.file().fd.get(),
                         origin.file().base + data->offset + source_first * kPageSize));
        ++report.runs;
        report.pages += run.count;
    }
    return report;
}

}  // namespace snapvm
