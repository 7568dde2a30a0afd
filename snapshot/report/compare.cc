// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "snapshot/area/origin.h"
#include "snapshot/area/reader.h"
#include "snapshot/format/page_entry.h"
#include "snapshot/report/verify.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kChunkPages = 1024;

using Lines = std::vector<std::string>;

void add(Lines& lines, std::string line) {
    if (lines.size() < VerifyReport::kMaxFaults) {
        lines.push_back(std::move(line));
    }
}

std::string record_text(const StateRecord& record) {
    return "state record " + std::string(name_of(record.kind)) + " " + std::to_string(record.instance);
}

void compare_records(const std::vector<StateRecord>& a, const std::vector<StateRecord>& b, Lines& lines) {
    const auto find = [](const std::vector<StateRecord>& in, const StateRecord& what) {
        return std::ranges::find_if(
            in, [&](const StateRecord& r) { return r.kind == what.kind && r.instance == what.instance; });
    };
    for (const StateRecord& record : a) {
        if (auto other = find(b, record); other == b.end() || *other != record) {
            add(lines, record_text(record) + (other == b.end() ? " is missing in the second" : " differs"));
        }
    }
    for (const StateRecord& record : b) {
        if (find(a, record) == a.end()) {
            add(lines, record_text(record) + " is missing in the first");
        }
    }
}

// Compares the entries and, if there is data, the bytes of the pages: equal checksums do not prove
// that two pages are equal.
Status compare_block(const PinnedSnapshot& a, const PinnedSnapshot& b, const BlockSpec& spec, Lines& lines) {
    const auto id = static_cast<std::uint32_t>(spec.id);
    std::array<std::vector<std::uint64_t>, 2> words;
    std::array<std::vector<std::byte>, 2> bytes;
    for (std::uint64_t first = 0; first < spec.pages(); first += kChunkPages) {
        const std::uint64_t count = std::min(kChunkPages, spec.pages() - first);
        for (std::size_t side = 0; side < 2; ++side) {
            const PinnedSnapshot& snapshot = side == 0 ? a : b;
            words[side].resize(count);
            TRY(read_raw_entries(snapshot.file, *snapshot.superblock.find(SectionKind::entries, id), first,
                                 words[side]));
        }
        const bool any_data = std::ranges::any_of(words[0], [](std::uint64_t word) {
            const auto entry = PageEntry::decode(word);
            return entry && has_data(entry->page_class);
        });
        for (std::size_t side = 0; any_data && side < 2; ++side) {
            const PinnedSnapshot& snapshot = side == 0 ? a : b;
            bytes[side].resize(count * kPageSize);
            TRY(snapshot.file.read(bytes[side],
                                   snapshot.superblock.find(SectionKind::data, id)->offset + first * kPageSize));
        }
        for (std::uint64_t i = 0; i < count; ++i) {
            const auto page = [&](std::size_t side) {
                return std::span(bytes[side]).subspan(i * kPageSize, kPageSize);
            };
            const bool same = words[0][i] == words[1][i] && (!any_data || std::ranges::equal(page(0), page(1)));
            if (!same) {
                const auto class_text = [](std::uint64_t word) {
                    const auto entry = PageEntry::decode(word);
                    return entry ? std::string(name_of(entry->page_class)) : std::string("damaged");
                };
                add(lines, "page " + std::to_string(first + i) + " of " + std::string(name_of(spec.id)) + " differs (" +
                               class_text(words[0][i]) + ", " + class_text(words[1][i]) + ")");
            }
        }
    }
    return {};
}

}  // namespace

Result<std::vector<std::string>> compare_snapshots(const AreaPath& a, const AreaPath& b) {
    const PinnedSnapshot first = TRY(pin_snapshot(a, false));
    const PinnedSnapshot second = TRY(pin_snapshot(b, false));
    const SnapshotHead first_head = TRY(check_snapshot(first));
    const SnapshotHead second_head = TRY(check_snapshot(second));
    Lines lines;
    if (first_head.start.config != second_head.start.config) {
        add(lines, "the machine configuration differs");
    }
    compare_records(first_head.records, second_head.records, lines);
    if (first_head.start.blocks != second_head.start.blocks) {
        add(lines, "the memory blocks differ");
        return lines;
    }
    for (const BlockSpec& spec : first_head.start.blocks) {
        TRY(compare_block(first, second, spec, lines));
    }
    return lines;
}

}  // namespace snapvm
