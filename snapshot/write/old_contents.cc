// SPDX-License-Identifier: Apache-2.0
#include "snapshot/write/old_contents.h"

#include <algorithm>

#include "snapshot/area/origin.h"
#include "snapshot/format/page_entry.h"
#include "vmm/base/try.h"

namespace snapvm {

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
        entries =
            section.kind == SectionKind::entries && section.offset == slot.entries_offsets[index] ? &section : entries;
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

}  // namespace snapvm
