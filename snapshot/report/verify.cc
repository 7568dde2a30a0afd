// SPDX-License-Identifier: Apache-2.0
#include "snapshot/report/verify.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "snapshot/area/origin.h"
#include "snapshot/area/reader.h"
#include "snapshot/format/page_entry.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kChunkPages = 1024;

// One block and its sections.
struct BlockPlaces {
    BlockSpec spec;
    const Section* entries;
    const Section* data;
    std::uint64_t first_page;  // number of its first page, counted over all blocks
};

std::vector<BlockPlaces> places_of(const Superblock& sb, std::span<const BlockSpec> blocks) {
    std::vector<BlockPlaces> places;
    std::uint64_t first = 0;
    for (const BlockSpec& spec : blocks) {
        const auto id = static_cast<std::uint32_t>(spec.id);
        places.push_back({spec, sb.find(SectionKind::entries, id), sb.find(SectionKind::data, id), first});
        first += spec.pages();
    }
    return places;
}

std::string page_text(const BlockSpec& spec, std::uint64_t page) {
    return "page " + std::to_string(page) + " of " + std::string(name_of(spec.id));
}

// Whether a range of a file is a hole, which reads as zeros and need not be read.
bool is_hole(const AreaFile& file, std::uint64_t offset, std::uint64_t size) {
    const off_t data = file.device ? 0 : ::lseek(file.fd.get(), static_cast<off_t>(file.base + offset), SEEK_DATA);
    return !file.device && ((data < 0 && errno == ENXIO) ||
                            (data >= 0 && static_cast<std::uint64_t>(data) >= file.base + offset + size));
}

class SnapshotVerifier {
public:
    // `total` is what the progress is of: the pages of all snapshots that are verified.
    SnapshotVerifier(const PinnedSnapshot& snapshot, VerifyReport& report, const Progress& progress,
                     std::uint64_t total)
        : snapshot_(snapshot), report_(report), progress_(progress), total_(total) {}

    Status run() {
        const Superblock& sb = snapshot_.superblock;
        TRY(check_sections());
        auto head = check_snapshot(snapshot_);
        if (!head) {
            if (head.error().kind() != ErrorKind::invalid) {
                return fail(std::move(head).error());
            }
            add(head.error().what());
            return {};
        }
        places_ = places_of(sb, head->start.blocks);
        for (const BlockPlaces& place : places_) {
            TRY(check_block(place, head->plan));
        }
        return {};
    }

private:
    void add(const std::string& fault) {
        report_.add(
            (snapshot_.superblock.slots == 2 ? "slot " + std::to_string(snapshot_.superblock.slot) + ": " : "") +
            fault);
    }

    // check_snapshot() checks the checksums of start, plan and state, and decodes them.
    Status check_sections() {
        for (const Section& section : snapshot_.superblock.sections) {
            if (section.kind == SectionKind::data) {
                continue;
            }
            ++report_.sections;
            const bool in_head = section.kind == SectionKind::start || section.kind == SectionKind::plan ||
                                 section.kind == SectionKind::state;
            if (!in_head && TRY(section_crc(snapshot_.file, section)) != section.crc) {
                add("section " + std::string(name_of(section.kind)) +
                    (section.block == 0 ? "" : " of " + std::string(name_of(static_cast<BlockId>(section.block)))) +
                    " has a wrong checksum");
            }
        }
        return {};
    }

    Status check_block(const BlockPlaces& place, std::span<const PlanRun> plan) {
        std::vector<std::uint64_t> raw(kChunkPages);
        std::vector<std::byte> bytes(kChunkPages * kPageSize);
        for (std::uint64_t first = 0; first < place.spec.pages(); first += kChunkPages) {
            const std::uint64_t count = std::min(kChunkPages, place.spec.pages() - first);
            TRY(read_raw_entries(snapshot_.file, *place.entries, first, std::span(raw).first(count)));
            const std::uint64_t at = place.data->offset + first * kPageSize;
            const bool hole = is_hole(snapshot_.file, at, count * kPageSize);
            if (!hole) {
                TRY(snapshot_.file.read(std::span(bytes).first(count * kPageSize), at));
            }
            for (std::uint64_t i = 0; i < count; ++i) {
                // All pages of a hole are represented by one page of zeros.
                static constexpr std::array<std::byte, kPageSize> kZeroPage{};
                const auto page =
                    hole ? std::span<const std::byte>(kZeroPage) : std::span(bytes).subspan(i * kPageSize, kPageSize);
                TRY(check_page(place, first + i, raw[i], page, plan));
            }
            report_.pages += count;
            if (progress_) {
                progress_(report_.pages, total_);
            }
        }
        return {};
    }

    Status check_page(const BlockPlaces& place, std::uint64_t page, std::uint64_t raw, std::span<const std::byte> bytes,
                      std::span<const PlanRun> plan) {
        const auto entry = PageEntry::decode(raw);
        if (!entry) {
            add(page_text(place.spec, page) + ": " + entry.error().what());
            return {};
        }
        if (!has_data(entry->page_class)) {
            if (!is_all_zero(bytes)) {
                add(page_text(place.spec, page) + " is " + std::string(name_of(entry->page_class)) +
                    " and does not read as zeros");
            }
            return {};
        }
        const auto covers = [&](const PlanRun& run) {
            return run.block == place.spec.id && page >= run.first && page - run.first < run.count;
        };
        if (std::ranges::any_of(plan, covers)) {
            add(page_text(place.spec, page) + " has data and is in the map plan");
        }
        if (entry->page_class == PageClass::shared) {
            return check_shared(place, page, *entry, bytes);
        }
        if (page_checksum(place.spec.id, page, bytes) != entry->checksum) {
            add(page_text(place.spec, page) + " has a wrong checksum");
        }
        return {};
    }

    Status check_shared(const BlockPlaces& place, std::uint64_t page, const PageEntry& entry,
                        std::span<const std::byte> bytes) {
        const auto holds = [&](const BlockPlaces& p) {
            return entry.shares >= p.first_page && entry.shares - p.first_page < p.spec.pages();
        };
        const auto found = std::ranges::find_if(places_, holds);
        if (found == places_.end() || entry.shares >= place.first_page + page) {
            add(page_text(place.spec, page) + " shares a page that is not before it");
            return {};
        }
        std::uint64_t word = 0;
        TRY(read_raw_entries(snapshot_.file, *found->entries, entry.shares - found->first_page, std::span(&word, 1)));
        const auto named = PageEntry::decode(word);
        if (!named || !has_data(named->page_class) || named->page_class == PageClass::shared) {
            add(page_text(place.spec, page) + " shares a page that is not the first with its data");
            return {};
        }
        std::array<std::byte, kPageSize> other;
        TRY(snapshot_.file.read(other, found->data->offset + (entry.shares - found->first_page) * kPageSize));
        if (std::memcmp(other.data(), bytes.data(), kPageSize) != 0) {
            add(page_text(place.spec, page) + " differs from the page it shares");
        }
        return {};
    }

    const PinnedSnapshot& snapshot_;
    VerifyReport& report_;
    const Progress& progress_;
    std::uint64_t total_;
    std::vector<BlockPlaces> places_;
};

}  // namespace

void VerifyReport::add(std::string fault) {
    ++fault_count;
    if (faults.size() < kMaxFaults) {
        faults.push_back(std::move(fault));
    }
}

Result<VerifyReport> verify_area(const AreaPath& path, const Progress& progress) {
    VerifyReport report;
    const AreaFile file = TRY(AreaFile::open(path, O_RDONLY));
    const SuperblockPair pair = TRY(SuperblockPair::read(file));
    if (auto strict = pair.choose(file.name, false); !strict) {
        // If one superblock is valid, damage to the other one is a finding and no error.
        const bool damaged = strict.error().kind() == ErrorKind::invalid && pair.newest_complete() != nullptr;
        if (!damaged) {
            return fail(std::move(strict).error());
        }
        report.add(strict.error().what());
    } else if (std::string lost = pair.what_is_lost(); !lost.empty()) {
        report.add(std::move(lost));
    }
    std::vector<const Superblock*> complete;
    std::uint64_t total = 0;
    for (const SuperblockPair::Copy& copy : pair.copies) {
        const bool newest = copy.valid && &*copy.valid == pair.newest_complete();
        if (newest || (copy.valid && copy.valid->state == SlotState::complete && copy.valid->slots != 1)) {
            complete.push_back(&*copy.valid);
            total += copy.valid->memory_bytes / kPageSize;
        }
    }
    for (const Superblock* superblock : complete) {
        const PinnedSnapshot snapshot = TRY(pin_snapshot(path, *superblock));
        TRY(SnapshotVerifier(snapshot, report, progress, total).run());
        ++report.snapshots;
    }
    return report;
}

Result<std::string> read_metadata(const AreaPath& path) {
    const PinnedSnapshot snapshot = TRY(pin_snapshot(path, false));
    const std::vector<std::byte> bytes = TRY(snapshot.section(SectionKind::metadata));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace snapvm
