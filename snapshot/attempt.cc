// SPDX-License-Identifier: Apache-2.0
#include "snapshot/attempt.h"

#include <fcntl.h>

#include <algorithm>

#include "snapshot/cache_policy.h"
#include "snapshot/old_contents.h"
#include "snapshot/runs.h"
#include "snapshot/sections.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kChunkPages = 4096;
constexpr std::uint64_t kWriteBackBytes = 8ULL << 20;
constexpr std::uint64_t kMaxWritePages = kMaxPageWrite / kPageSize;

AreaShape shape_of(const SnapshotSource& source) {
    AreaShape shape{{}, source.config().cpus};
    for (const MemoryBlock& block : source.memory().blocks()) {
        shape.blocks.push_back(block.spec());
    }
    return shape;
}

// Writes the small sections and lists all of them for the superblock.
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

private:
    AreaWriter& area_;
    std::vector<Section> list_;
};

}  // namespace

Attempt::Attempt(SnapshotSource& source, AreaShape shape, AreaWriter area, const WriteOptions& options)
    : source_(&source), shape_(std::move(shape)), options_(options), area_(std::move(area)), wrote_(source.memory().blocks()) {}

Result<Attempt> Attempt::open(SnapshotSource& source, const AreaPath& path, const WriteOptions& options) {
    if (options.metadata.size() > kMetadataCapacity) {
        return fail(ErrorKind::usage, "metadata of " + std::to_string(options.metadata.size()) + " bytes is too large",
                    "give at most 64 KiB");
    }
    if (options.track && source.dirty() == nullptr) {
        return fail(ErrorKind::unsupported, "this host's KVM cannot tell which pages a guest writes", "leave --track out");
    }
    AreaShape shape = shape_of(source);
    if (source.config().blocks() != shape.blocks) {
        return fail(ErrorKind::invalid, "the machine's memory blocks are not those of its configuration");
    }
    AreaWriter area = TRY(AreaWriter::open(path, shape, options.slots, options.hook, options.names));
    PopulationScanner scanner = TRY(PopulationScanner::open());
    Attempt attempt(source, std::move(shape), std::move(area), options);
    const Superblock* previous = attempt.area_.previous();
    const bool known = options.history != nullptr && previous != nullptr && options.history->knows(previous->snapshot_id);
    attempt.diff_ = known && options.type != SnapshotType::full;
    if (options.type == SnapshotType::diff && !known) {
        return fail(
            ErrorKind::usage, attempt.area_.file().name + ": what changed since the snapshot in it is not known",
            "make one with --track first, by this machine and into this area; one without --track, into any, ends the tracking");
    }
    const bool cached = choose_cached(options.cache, source.memory(), scanner);
    const int direct = cached ? -1 : TRY(attempt.area_.open_direct());
    attempt.cached_ = direct < 0;
    const AreaFile& file = attempt.area_.file();
    attempt.sink_ = TRY(make_page_sink({direct < 0 ? file.fd.get() : direct, file.name, options.hook}, options.backend));
    attempt.classifier_ = std::make_unique<Classifier>(std::move(scanner));
    attempt.table_ = TRY(PageTable::of(source.memory().blocks()));
    attempt.snapshot_id_ = TRY(Uuid::random());
    return attempt;
}

Status Attempt::check_cancelled() const {
    if (options_.monitor != nullptr && options_.monitor->cancelled()) {
        return fail(ErrorKind::cancelled, "the snapshot was called off");
    }
    return {};
}

Result<Attempt::State> Attempt::take_state() {
    const SavedMachine saved = TRY(source_->save());
    State state{StartSection{saved.config, shape_.blocks}.encode(), encode_state(saved.records)};
    if (state.start.size() > kStartCapacity ||
        align_up(state.start.size(), kPageSize) + state.state.size() > area_.slot().head_capacity) {
        return fail(ErrorKind::invalid,
                    "the machine's state of " + std::to_string(state.state.size()) + " bytes does not fit the area");
    }
    return state;
}

Status Attempt::begin() {
    if (const Superblock* previous = area_.previous();
        previous != nullptr && options_.history != nullptr && options_.history->knows(previous->snapshot_id)) {
        SnapshotHistory::Known known = options_.history->take(previous->snapshot_id);
        if (diff_) {
            table_ = std::move(known.table);
            base_ = std::move(known.missed);
        }
    }
    TRY(area_.begin(source_->config().machine_id, snapshot_id_));
    begun_ = true;
    return {};
}

Status Attempt::follow(DirtyFeed& feed) {
    if (options_.track && options_.history != nullptr) {
        // A collect would lengthen the pause, and what it brings would be in nobody's hands: it is behind the last copy.
        followed_ = feed.active() ? feed.join() : TRY(feed.subscribe());
    }
    base_.reset();
    return {};
}

Status Attempt::note(std::size_t block, std::uint64_t page, const PageFacts& facts) {
    table_.set(block, page, facts);
    if (has_data(facts.entry.page_class)) {
        wrote_.add(block, page);
    }
    return {};
}

Status Attempt::write(std::span<const std::byte> data, std::uint64_t offset) {
    data_bytes_ += data.size();
    TRY(sink_->write(data, offset));
    unsynced_ += data.size();
    if (cached_ && unsynced_ >= kWriteBackBytes) {
        // The kernel begins to write what is in the page cache by now; left to itself it waits for the flush, and the disk idles until then.
        // Only a hint: errors come with the flush.
        (void)::sync_file_range(area_.file().fd.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
        unsynced_ = 0;
    }
    return {};
}

Status Attempt::stream(std::size_t index, std::uint64_t first, std::uint64_t count) {
    const MemoryBlock& block = source_->memory().blocks()[index];
    const std::uint64_t data_at = area_.file().base + area_.slot().data_offsets[index];
    RunJoiner data(
        [&](std::uint64_t from, std::uint64_t pages) {
            return write({block.host() + from * kPageSize, pages * kPageSize}, data_at + from * kPageSize);
        },
        kMaxWritePages);
    for (const std::uint64_t end = first + count; first < end;) {
        const std::uint64_t part = std::min(kChunkPages, end - first);
        facts_.resize(part);
        TRY(check_cancelled());
        TRY(classifier_->classify(block, first, facts_));
        for (std::uint64_t i = 0; i < part; ++i) {
            TRY(note(index, first + i, facts_[i]));
            if (has_data(facts_[i].entry.page_class)) {
                TRY(data.add(first + i));
            }
        }
        first += part;
        if (options_.monitor != nullptr) {
            options_.monitor->round_done += part;
            options_.monitor->written_bytes = data_bytes_;
        }
    }
    return data.flush();
}

Status Attempt::stream_used(std::size_t index, std::uint64_t first, std::uint64_t count, const DirtySet& unused) {
    for (const std::uint64_t end = first + count; first < end;) {
        const bool skip = unused.has(index, first);
        std::uint64_t run = 1;
        while (first + run < end && unused.has(index, first + run) == skip) {
            ++run;
        }
        if (!skip) {
            TRY(stream(index, first, run));
        }
        for (std::uint64_t page = first; skip && page < first + run; ++page) {
            TRY(note(index, page, {{PageClass::free}, {}}));
        }
        if (skip && options_.monitor != nullptr) {
            options_.monitor->round_done += run;
        }
        first += run;
    }
    return {};
}

Status Attempt::write_staged(const Staging& staging) {
    // Pages that were staged one after the other lie side by side, so most runs of the guest are runs of the store.
    std::span<const std::byte> run;
    std::uint64_t run_at = 0;
    const auto flush = [&]() -> Status { return run.empty() ? Status{} : write(std::exchange(run, {}), run_at); };
    TRY(staging.for_each([&](std::size_t index, std::uint64_t page, std::span<const std::byte> bytes, PageType type) -> Status {
        const PageFacts facts = classify_page(shape_.blocks[index].id, page, bytes, type);
        TRY(note(index, page, facts));
        if (options_.monitor != nullptr) {
            options_.monitor->round_done += 1;
            options_.monitor->written_bytes = data_bytes_;
        }
        if (!has_data(facts.entry.page_class)) {
            return {};
        }
        const std::uint64_t at = area_.file().base + area_.slot().data_offsets[index] + page * kPageSize;
        const bool joins = !run.empty() && run.data() + run.size() == bytes.data() && run_at + run.size() == at;
        if (!joins || run.size() == kMaxPageWrite) {
            TRY(check_cancelled());
            TRY(flush());
            run_at = at;
            run = bytes;
        } else {
            run = {run.data(), run.size() + bytes.size()};
        }
        return {};
    }));
    return flush();
}

Status Attempt::settle_writes() { return sink_->drain(); }

// A page without data reads as zeros from the area: what the slot's last snapshot left there, or this try before the page lost its data.
Status Attempt::zero_stale() {
    const auto may_have_data = std::make_unique<bool[]>(kChunkPages);
    for (std::size_t index = 0; index < shape_.blocks.size(); ++index) {
        OldContents old = TRY(OldContents::of(area_, index));
        const std::uint64_t data_at = area_.slot().data_offsets[index];
        RunJoiner stale([&](std::uint64_t first, std::uint64_t count) {
            return area_.io().zero(data_at + first * kPageSize, count * kPageSize);
        });
        for (std::uint64_t first = 0; first < table_.pages(index); first += kChunkPages) {
            const std::uint64_t count = std::min(kChunkPages, table_.pages(index) - first);
            TRY(old.may_have_data(first, {may_have_data.get(), count}));
            for (std::uint64_t i = 0; i < count; ++i) {
                if (!table_.has_data(index, first + i) && (may_have_data[i] || wrote_.has(index, first + i))) {
                    TRY(stale.add(first + i));
                }
            }
        }
        TRY(stale.flush());
    }
    return {};
}

Status Attempt::write_entries(const PageTable::Settled& settled, std::vector<std::uint32_t>& crcs) {
    for (std::size_t index = 0; index < settled.entries.size(); ++index) {
        const auto words = settled.entries[index].all();
        std::uint32_t crc = 0;
        for (std::uint64_t first = 0; first < words.size(); first += kChunkPages) {
            const auto bytes = std::as_bytes(words.subspan(first, std::min<std::uint64_t>(kChunkPages, words.size() - first)));
            crc = crc32c(bytes, crc);
            // Entries of pages that are all absent are zeros, and so is a fresh area: a sparse guest's area stays sparse.
            if (!area_.fresh() || !is_all_zero(bytes)) {
                TRY(area_.io().write(IoStep::section, bytes, area_.slot().entries_offsets[index] + first * sizeof(std::uint64_t)));
            }
        }
        crcs.push_back(crc);
    }
    return {};
}

Status Attempt::finish(const State& state) {
    // Before anything is zeroed: a page that lost its data may still be on its way (two writes of one page: traps.md).
    TRY(settle_writes());
    const PageTable::Settled settled = TRY(table_.settle());
    counts_ = settled.counts;
    // Before the entries: which pages may hold old bytes is read from those of the snapshot before.
    TRY(zero_stale());
    std::vector<std::uint32_t> crcs;
    TRY(write_entries(settled, crcs));
    const SlotLayout& slot = area_.slot();
    SectionWriter out(area_);
    TRY(out.put(SectionKind::plan, encode_plan(settled.plan), slot.plan_offset, kPlanCapacity));
    const std::uint64_t start_capacity = align_up(state.start.size(), kPageSize);
    TRY(out.put(SectionKind::start, state.start, slot.head_offset, start_capacity));
    TRY(out.put(SectionKind::state, state.state, slot.head_offset + start_capacity, slot.head_capacity - start_capacity));
    TRY(out.put(SectionKind::metadata, std::as_bytes(std::span(options_.metadata)), slot.metadata_offset, kMetadataCapacity));
    TRY(out.put(SectionKind::disks, {}, slot.disks_offset, kDisksCapacity));
    TRY(out.put(SectionKind::working_set, {}, slot.working_set_offset, kWorkingSetCapacity));
    for (std::size_t i = 0; i < shape_.blocks.size(); ++i) {
        out.list_block(shape_.blocks[i], i, crcs[i]);
    }
    TRY(check_cancelled());
    TRY(area_.commit(out.take()));
    if (followed_) {
        options_.history->remember({snapshot_id_, std::move(table_), std::move(followed_)});
    } else if (options_.history != nullptr) {
        options_.history->clear();
    }
    return {};
}

void Attempt::fill(SnapshotReport& report) const {
    report.cached = cached_;
    report.pages = counts_;
    report.area_bytes = area_.layout().size;
    report.written_bytes = data_bytes_ + area_.io().written_bytes();
    report.snapshot_id = snapshot_id_;
    report.sequence = area_.sequence();
    report.slot = area_.slot_index();
    report.backend = sink_->name();
    report.type = diff_ ? "diff" : "full";
}

}  // namespace snapvm
