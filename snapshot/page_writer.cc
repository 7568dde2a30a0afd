// SPDX-License-Identifier: Apache-2.0
#include "snapshot/page_writer.h"

#include <algorithm>

#include "snapshot/origin.h"
#include "snapshot/runs.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kChunkPages = 4096;
constexpr std::uint64_t kHugePages = kHugePageSize / kPageSize;
constexpr std::uint64_t kMaxWritePages = kMaxPageWrite / kPageSize;

// The whole 2 MiB ranges inside of a run without data.
PlanRun huge_part(const BlockSpec& spec, std::uint64_t first, std::uint64_t count) {
    const std::uint64_t from = align_up(first, kHugePages);
    const std::uint64_t to = align_down(first + count, kHugePages);
    const bool possible = spec.base.value % kHugePageSize == 0 && from < to;
    return {spec.id, from, possible ? to - from : 0};
}

}  // namespace

Result<OldContents> OldContents::of(AreaWriter& area, std::size_t index) {
    const SlotLayout& slot = area.slot();
    if (area.fresh()) {
        return OldContents(area.file(), Knowledge::all_zero, {});
    }
    const Superblock* previous = area.previous();
    if (previous == nullptr || previous->slot_offset != slot.offset) {
        return OldContents(area.file(), Knowledge::none, {});
    }
    std::size_t seen = 0;
    const Section* entries = nullptr;
    const Section* data = nullptr;
    for (const Section& section : previous->sections) {
        entries = section.kind == SectionKind::entries && section.offset == slot.entries_offsets[index] ? &section : entries;
        data = section.kind == SectionKind::data && section.offset == slot.data_offsets[index] ? &section : data;
        seen += section.kind == SectionKind::data ? 1 : 0;
    }
    const bool same_place =
        seen == slot.data_offsets.size() && entries != nullptr && data != nullptr && entries->block == data->block;
    if (!same_place || TRY(section_crc(area.file(), *entries)) != entries->crc) {
        return OldContents(area.file(), Knowledge::none, {});
    }
    return OldContents(area.file(), Knowledge::entries, *entries);
}

Status OldContents::may_have_data(std::uint64_t first, std::span<bool> out) {
    std::ranges::fill(out, knowledge_ != Knowledge::all_zero);
    if (knowledge_ != Knowledge::entries) {
        return {};
    }
    raw_.resize(out.size());
    TRY(read_raw_entries(*file_, entries_, first, raw_));
    for (std::size_t i = 0; i < out.size(); ++i) {
        const auto entry = PageEntry::decode(raw_[i]);
        out[i] = !entry || has_data(entry->page_class);
    }
    return {};
}

Status PageWriter::write_block(const MemoryBlock& block, std::size_t index) {
    const BlockSpec& spec = block.spec();
    const std::uint64_t data_at = area_.slot().data_offsets[index];
    const std::uint64_t entries_at = area_.slot().entries_offsets[index];
    OldContents old = TRY(OldContents::of(area_, index));

    RunJoiner data(
        [&](std::uint64_t first, std::uint64_t count) {
            data_bytes_ += count * kPageSize;
            return sink_.write({block.host() + first * kPageSize, count * kPageSize},
                               area_.file().base + data_at + first * kPageSize);
        },
        kMaxWritePages);
    RunJoiner stale(
        [&](std::uint64_t first, std::uint64_t count) { return area_.io().zero(data_at + first * kPageSize, count * kPageSize); });
    RunJoiner without_data([&](std::uint64_t first, std::uint64_t count) {
        if (const PlanRun run = huge_part(spec, first, count); run.count > 0) {
            runs_.push_back(run);
        }
        return Status{};
    });

    std::vector<PageEntry> entries(kChunkPages);
    std::vector<std::uint64_t> words(kChunkPages);
    const auto may_have_data = std::make_unique<bool[]>(kChunkPages);
    std::uint32_t crc = 0;
    for (std::uint64_t first = 0; first < spec.pages(); first += kChunkPages) {
        const std::uint64_t count = std::min(kChunkPages, spec.pages() - first);
        TRY(classifier_.classify(block, first, std::span(entries).first(count)));
        TRY(old.may_have_data(first, {may_have_data.get(), count}));
        for (std::uint64_t i = 0; i < count; ++i) {
            const PageEntry& entry = entries[i];
            words[i] = entry.encode();
            ++counts_[static_cast<std::size_t>(entry.page_class)];
            if (has_data(entry.page_class)) {
                TRY(data.add(first + i));
                continue;
            }
            TRY(without_data.add(first + i));
            if (may_have_data[i]) {
                TRY(stale.add(first + i));
            }
        }
        const auto bytes = std::as_bytes(std::span(words).first(count));
        crc = crc32c(bytes, crc);
        // Entries of pages that are all absent are zeros, and so is a fresh area: a sparse guest's area stays sparse.
        if (!area_.fresh() || !is_all_zero(bytes)) {
            TRY(area_.io().write(IoStep::section, bytes, entries_at + first * sizeof(std::uint64_t)));
        }
    }
    TRY(data.flush());
    TRY(stale.flush());
    TRY(without_data.flush());
    entry_crcs_.push_back(crc);
    return {};
}

std::vector<PlanRun> PageWriter::plan() const {
    std::vector<PlanRun> longest = runs_;
    std::ranges::stable_sort(longest, std::ranges::greater{}, &PlanRun::count);
    longest.resize(std::min(longest.size(), kMaxPlanRuns));
    return longest;
}

}  // namespace snapvm
