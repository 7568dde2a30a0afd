// SPDX-License-Identifier: Apache-2.0
#include "snapshot/writer.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <chrono>

#include "snapshot/area.h"
#include "snapshot/page_writer.h"
#include "snapshot/sections.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t micros_since(Clock::time_point start) {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count());
}

// What cached page data may take, and of the free memory: DECISIONS.md, "Page cache".
constexpr std::uint64_t kCacheLimit = 256ULL << 20;
constexpr std::uint64_t kCacheShare = 4;

bool fits_the_cache(std::uint64_t bytes) {
    struct sysinfo info{};
    return bytes <= kCacheLimit && ::sysinfo(&info) == 0 && bytes <= std::uint64_t{info.freeram} * info.mem_unit / kCacheShare;
}

// How much page data there can be at most: what the process holds of the guest is not known before the freeze.
std::uint64_t resident_estimate(const GuestMemory& memory, const PopulationScanner& scanner) {
    std::uint64_t pages = 0;
    std::vector<Population> population;
    for (const MemoryBlock& block : memory.blocks()) {
        population.resize(std::min<std::uint64_t>(block.spec().pages(), 1U << 16));
        for (std::uint64_t first = 0; first < block.spec().pages(); first += population.size()) {
            const auto part = std::span(population).first(std::min<std::uint64_t>(population.size(), block.spec().pages() - first));
            if (!scanner.scan(block, first, part)) {
                return block.spec().size;
            }
            pages += static_cast<std::uint64_t>(std::ranges::count(part, Population::own));
        }
    }
    return pages * kPageSize;
}

bool choose_cached(CachePolicy policy, const GuestMemory& memory, const PopulationScanner& scanner) {
    switch (policy) {
        case CachePolicy::cached: return true;
        case CachePolicy::direct: return false;
        case CachePolicy::automatic: break;
    }
    std::uint64_t all = 0;
    for (const MemoryBlock& block : memory.blocks()) {
        all += block.spec().size;
    }
    // The scan costs milliseconds a GiB, and only machines larger than the bound need it.
    return fits_the_cache(all) || fits_the_cache(resident_estimate(memory, scanner));
}

// The small sections, encoded and found to fit before the slot is touched.
struct SmallSections {
    std::vector<std::byte> start;
    std::vector<std::byte> state;

    static Result<SmallSections> of(const SavedMachine& saved, const AreaShape& shape, const SlotLayout& slot) {
        SmallSections small{StartSection{saved.config, shape.blocks}.encode(), encode_state(saved.records)};
        if (small.start.size() > kStartCapacity ||
            align_up(small.start.size(), kPageSize) + small.state.size() > slot.head_capacity) {
            return fail(ErrorKind::invalid,
                        "the machine's state of " + std::to_string(small.state.size()) + " bytes does not fit the area");
        }
        return small;
    }
};

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

Result<std::vector<Section>> write_sections(AreaWriter& area, const SmallSections& small, const AreaShape& shape,
                                            const PageWriter& pages, const std::string& metadata) {
    const SlotLayout& slot = area.slot();
    SectionWriter out(area);
    TRY(out.put(SectionKind::plan, encode_plan(pages.plan()), slot.plan_offset, kPlanCapacity));
    const std::uint64_t start_capacity = align_up(small.start.size(), kPageSize);
    TRY(out.put(SectionKind::start, small.start, slot.head_offset, start_capacity));
    TRY(out.put(SectionKind::state, small.state, slot.head_offset + start_capacity, slot.head_capacity - start_capacity));
    TRY(out.put(SectionKind::metadata, std::as_bytes(std::span(metadata)), slot.metadata_offset, kMetadataCapacity));
    TRY(out.put(SectionKind::disks, {}, slot.disks_offset, kDisksCapacity));
    TRY(out.put(SectionKind::working_set, {}, slot.working_set_offset, kWorkingSetCapacity));
    for (std::size_t i = 0; i < shape.blocks.size(); ++i) {
        out.list_block(shape.blocks[i], i, pages.entry_crcs()[i]);
    }
    return out.take();
}

AreaShape shape_of(const SnapshotSource& source) {
    AreaShape shape{{}, source.config().cpus};
    for (const MemoryBlock& block : source.memory().blocks()) {
        shape.blocks.push_back(block.spec());
    }
    return shape;
}

}  // namespace

Result<SnapshotReport> write_snapshot(SnapshotSource& source, const AreaPath& path, const WriteOptions& options) {
    const auto start = Clock::now();
    if (options.metadata.size() > kMetadataCapacity) {
        return fail(ErrorKind::usage, "metadata of " + std::to_string(options.metadata.size()) + " bytes is too large",
                    "give at most 64 KiB");
    }
    const AreaShape shape = shape_of(source);
    if (source.config().blocks() != shape.blocks) {
        return fail(ErrorKind::invalid, "the machine's memory blocks are not those of its configuration");
    }
    AreaWriter area = TRY(AreaWriter::open(path, shape, options.slots, options.hook));
    PopulationScanner scanner = TRY(PopulationScanner::open());
    SnapshotReport report;
    report.cached = choose_cached(options.cache, source.memory(), scanner);
    const int direct = report.cached ? -1 : TRY(area.open_direct());
    report.cached = direct < 0;
    auto sink = TRY(make_page_sink({direct < 0 ? area.file().fd.get() : direct, area.file().name, options.hook}, options.backend));
    report.snapshot_id = TRY(Uuid::random());

    // Where there is no older snapshot to lose, this flush need not lengthen the pause.
    const bool begun = area.fresh();
    if (begun) {
        TRY(area.begin(source.config().machine_id, report.snapshot_id));
    }
    const auto freeze_start = Clock::now();
    FreezeGuard frozen = TRY(FreezeGuard::freeze(source));
    const SavedMachine saved = TRY(source.save());
    const SmallSections small = TRY(SmallSections::of(saved, shape, area.slot()));
    if (!begun) {
        TRY(area.begin(source.config().machine_id, report.snapshot_id));
    }
    PageWriter pages(area, *sink, Classifier(std::move(scanner)));
    const auto blocks = source.memory().blocks();
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        TRY(pages.write_block(blocks[i], i));
    }
    std::vector<Section> sections = TRY(write_sections(area, small, shape, pages, options.metadata));
    TRY(sink->drain());
    report.rounds.push_back({pages.data_bytes() / kPageSize, pages.data_bytes(), micros_since(freeze_start)});
    TRY(area.commit(std::move(sections)));
    if (options.keep_frozen) {
        frozen.release();
    } else {
        frozen.thaw();
    }
    report.pause_us = micros_since(freeze_start);
    report.total_us = micros_since(start);
    report.pages = pages.counts();
    report.area_bytes = area.layout().size;
    report.written_bytes = pages.data_bytes() + area.io().written_bytes();
    report.sequence = area.sequence();
    report.slot = area.slot_index();
    report.backend = sink->name();
    return report;
}

}  // namespace snapvm
