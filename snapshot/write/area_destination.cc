// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/area_destination.h"

#include <fcntl.h>

#include <algorithm>

#include "snapshot/format/page_entry.h"
#include "snapshot/format/runs.h"
#include "snapshot/format/sections.h"
#include "snapshot/write/cache_policy.h"
#include "snapshot/write/old_contents.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"
#include "vmm/memory/population.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kChunkPages = 4096;
constexpr std::uint64_t kWriteBackBytes = 8ULL << 20;
static_assert(kMaxRunBytes <= kMaxPageWrite);

// Writes the small sections and collects the rows of the section table.
class SectionWriter {
public:
    explicit SectionWriter(AreaWriter& area) : area_(area) {}

    Status put(SectionKind kind, std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t capacity) {
        if (!bytes.empty()) {
            TRY(area_.io().write(IoStep::section, bytes, offset));
        }
        list_.push_back({kind, 0, offset, capacity, bytes.size(), crc32c(bytes)});
        return {};
    }
    void list_block(const BlockSpec& block, std::size_t index, std::uint32_t crc) {
        const SlotLayout& slot = area_.slot();
        const auto id = static_cast<std::uint32_t>(block.id);
        const std::uint64_t size = block.pages() * sizeof(std::uint64_t);
        list_.push_back({SectionKind::entries, id, slot.entries_offsets[index], align_up(size, kPageSize), size, crc});
        list_.push_back({SectionKind::data, id, slot.data_offsets[index], block.size, block.size, 0});
    }
    std::vector<Section> take() { return std::move(list_); }

    // Zeroes what no section uses: behind the length of each, and between them. Another machine's
    // bytes may be there, of a snapshot with longer sections or with another layout.
    Status zero_unused() {
        if (area_.fresh()) {
            return {};
        }
        std::vector<Section> sorted = list_;
        std::ranges::sort(sorted, {}, &Section::offset);
        std::uint64_t unused_from = area_.slot().offset;
        for (const Section& section : sorted) {
            if (section.length > 0) {
                TRY(area_.io().zero(unused_from, section.offset - unused_from));
                unused_from = section.offset + section.length;
            }
        }
        return area_.io().zero(unused_from, area_.slot().offset + area_.slot().size - unused_from);
    }

private:
    AreaWriter& area_;
    std::vector<Section> list_;
};

}  // namespace

Result<AreaDestination> AreaDestination::open(const SnapshotSource& source, const AreaPath& path,
                                              const WriteOptions& options) {
    const GuestMemory& memory = source.memory();
    AreaShape shape{source.config().blocks(), source.config().cpus};
    AreaWriter area = TRY(AreaWriter::open(path, shape, options.slots, options.hook, options.names));
    AreaDestination self(std::move(shape), std::move(area), memory.blocks());
    const PopulationScanner scanner = TRY(PopulationScanner::open());
    const bool cached = choose_cached(options.cache, memory, scanner);
    const int direct = cached ? -1 : TRY(self.area_.open_direct());
    self.cached_ = direct < 0;
    const AreaFile& file = self.area_.file();
    self.identity_ = TRY(AreaIdentity::of(file));
    self.sink_ = TRY(PageSink::open({direct < 0 ? file.fd.get() : direct, file.name, options.hook}, options.engine));
    return self;
}

std::optional<Uuid> AreaDestination::previous() const {
    const Superblock* previous = area_.previous();
    return previous != nullptr ? std::optional(previous->snapshot_id) : std::nullopt;
}

Status AreaDestination::put(const PageRun& run) {
    const std::uint64_t at = area_.file().base + area_.slot().data_offsets[run.block] + run.first * kPageSize;
    for (std::uint64_t page = run.first; page < run.first + run.facts.size(); ++page) {
        put_.add(run.block, page);
    }
    data_bytes_ += run.bytes.size();
    TRY(sink_->write(run.bytes, at));
    unsynced_ += run.bytes.size();
    if (cached_ && unsynced_ >= kWriteBackBytes) {
        // Tells the kernel to write back now. By default it starts at the flush, and the disk idles
        // until then. The result does not matter: errors are reported by the flush.
        (void)::sync_file_range(area_.file().fd.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
        unsynced_ = 0;
    }
    return {};
}

Status AreaDestination::put_state(SnapshotState state) {
    if (state.start.size() > kStartCapacity ||
        align_up(state.start.size(), kPageSize) + state.state.size() > area_.slot().head_capacity) {
        return fail(ErrorKind::invalid,
                    "the machine's state of " + std::to_string(state.state.size()) + " bytes does not fit the area");
    }
    state_ = std::move(state);
    return {};
}

// A page without data must read as zeros from the area. Old bytes may be there from the slot's last
// snapshot, or from this one if the page has lost its data meanwhile.
Status AreaDestination::zero_stale(const PageTable::Resolved& pages) {
    const auto may_have_data = std::make_unique<bool[]>(kChunkPages);
    for (std::size_t index = 0; index < shape_.blocks.size(); ++index) {
        OldContents old = TRY(OldContents::of(area_, index));
        const auto words = pages.entries[index].all();
        const std::uint64_t data_at = area_.slot().data_offsets[index];
        RunJoiner stale([&](std::uint64_t first, std::uint64_t count) {
            return area_.io().zero(data_at + first * kPageSize, count * kPageSize);
        });
        for (std::uint64_t first = 0; first < words.size(); first += kChunkPages) {
            const std::uint64_t count = std::min<std::uint64_t>(kChunkPages, words.size() - first);
            TRY(old.may_have_data(first, {may_have_data.get(), count}));
            for (std::uint64_t i = 0; i < count; ++i) {
                if (!has_data(class_of(words[first + i])) && (may_have_data[i] || put_.has(index, first + i))) {
                    TRY(stale.add(first + i));
                }
            }
        }
        TRY(stale.flush());
    }
    return {};
}

Status AreaDestination::write_entries(const PageTable::Resolved& pages, std::vector<std::uint32_t>& crcs) {
    for (std::size_t index = 0; index < pages.entries.size(); ++index) {
        const auto words = pages.entries[index].all();
        std::uint32_t crc = 0;
        for (std::uint64_t first = 0; first < words.size(); first += kChunkPages) {
            const auto bytes =
                std::as_bytes(words.subspan(first, std::min<std::uint64_t>(kChunkPages, words.size() - first)));
            crc = crc32c(bytes, crc);
            // Entries of absent pages are zeros, as a fresh area is. Without this write the area of
            // a sparse guest stays sparse.
            if (!area_.fresh() || !is_all_zero(bytes)) {
                TRY(area_.io().write(IoStep::section, bytes,
                                     area_.slot().entries_offsets[index] + first * sizeof(std::uint64_t)));
            }
        }
        crcs.push_back(crc);
    }
    return {};
}

Status AreaDestination::commit(const PageTable::Resolved& pages, std::string_view metadata,
                               const std::function<Status()>& check_cancelled) {
    // Before write_entries(): it overwrites the old entries, which tell where old bytes may be.
    TRY(zero_stale(pages));
    std::vector<std::uint32_t> crcs;
    TRY(write_entries(pages, crcs));
    const SlotLayout& slot = area_.slot();
    SectionWriter out(area_);
    TRY(out.put(SectionKind::plan, encode_plan(pages.plan), slot.plan_offset, kPlanCapacity));
    const std::uint64_t start_capacity = align_up(state_.start.size(), kPageSize);
    TRY(out.put(SectionKind::start, state_.start, slot.head_offset, start_capacity));
    TRY(out.put(SectionKind::state, state_.state, slot.head_offset + start_capacity,
                slot.head_capacity - start_capacity));
    TRY(out.put(SectionKind::metadata, std::as_bytes(std::span(metadata)), slot.metadata_offset, kMetadataCapacity));
    TRY(out.put(SectionKind::disks, {}, slot.disks_offset, kDisksCapacity));
    TRY(out.put(SectionKind::working_set, {}, slot.working_set_offset, kWorkingSetCapacity));
    for (std::size_t i = 0; i < shape_.blocks.size(); ++i) {
        out.list_block(shape_.blocks[i], i, crcs[i]);
    }
    TRY(out.zero_unused());
    TRY(check_cancelled());
    return area_.commit(out.take());
}

void AreaDestination::fill(SnapshotReport& report) const {
    report.cached = cached_;
    report.area_bytes = area_.layout().size;
    report.written_bytes = data_bytes_ + area_.io().written_bytes();
    report.area = identity_;
    report.sequence = area_.sequence();
    report.slot = area_.slot_index();
    report.lost = area_.lost();
    report.backend = sink_->name();
}

}  // namespace snapvm
