// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/origin.h"

#include <algorithm>
#include <array>

#include "snapshot/format/page_entry.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {

Result<std::uint32_t> section_crc(const AreaFile& file, const Section& section) {
    std::vector<std::byte> buffer(std::min<std::uint64_t>(section.length, 1U << 20));
    std::uint32_t crc = 0;
    for (std::uint64_t done = 0; done < section.length;) {
        const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), section.length - done));
        TRY(file.read(part, section.offset + done));
        crc = crc32c(part, crc);
        done += part.size();
    }
    return crc;
}

Status read_raw_entries(const AreaFile& file, const Section& entries, std::uint64_t first,
                        std::span<std::uint64_t> out) {
    const std::uint64_t pages = entries.length / sizeof(std::uint64_t);
    if (first > pages || out.size() > pages - first) {
        return fail(ErrorKind::invalid, file.name + ": the page entries are outside of their block");
    }
    return file.read(std::as_writable_bytes(out), entries.offset + first * sizeof(std::uint64_t));
}

Status SnapshotOrigin::verify_section(std::size_t index) const {
    const std::scoped_lock lock(mutex_);
    if (!verified_[index]) {
        const Section& section = superblock_.sections[index];
        if (TRY(section_crc(file_, section)) != section.crc) {
            return fail(ErrorKind::invalid, file_.name + ": the page entries of block " +
                                                std::string(name_of(static_cast<BlockId>(section.block))) +
                                                " have a wrong checksum");
        }
        verified_[index] = true;
    }
    return {};
}

Status SnapshotOrigin::read_words(BlockId id, std::uint64_t first, std::span<std::uint64_t> out) const {
    const Section* section = superblock_.find(SectionKind::entries, static_cast<std::uint32_t>(id));
    if (section == nullptr) {
        return fail(ErrorKind::invalid, file_.name + " has no block " + std::string(name_of(id)));
    }
    TRY(verify_section(static_cast<std::size_t>(section - superblock_.sections.data())));
    return read_raw_entries(file_, *section, first, out);
}

// Finds the entries that shared pages name. The pages that a run of them names are mostly a run,
// too, so it keeps the words that it has read last.
class SnapshotOrigin::NamedEntries {
public:
    explicit NamedEntries(const SnapshotOrigin& origin) : origin_(origin) {}

    /// Returns the checksum of the shared page at `place`, which repeats page `number`.
    Result<std::uint32_t> checksum_of(PagePlace place, std::uint64_t number) {
        const PagePlace named = TRY(place_of(number));
        const auto entry = PageEntry::decode(TRY(word_of(named)));
        if (!entry || (entry->page_class != PageClass::common && entry->page_class != PageClass::swapped)) {
            return fail(refuse(number));
        }
        return checksum_at(place, named, entry->checksum);
    }

private:
    static constexpr std::uint64_t kWords = 512;

    // Pages are numbered over all blocks, in the order of the section table.
    Result<PagePlace> place_of(std::uint64_t number) const {
        std::uint64_t page = number;
        for (const Section& section : origin_.superblock_.sections) {
            if (section.kind == SectionKind::data) {
                if (page < section.length / kPageSize) {
                    return PagePlace{static_cast<BlockId>(section.block), page};
                }
                page -= section.length / kPageSize;
            }
        }
        return fail(refuse(number));
    }
    Result<std::uint64_t> word_of(PagePlace place) {
        if (place.block != block_ || place.page < first_ || place.page >= first_ + words_.size()) {
            const Section* data = origin_.superblock_.find(SectionKind::data, static_cast<std::uint32_t>(place.block));
            block_ = place.block;
            first_ = align_down(place.page, kWords);
            words_.resize(std::min(kWords, data->length / kPageSize - first_));
            TRY(origin_.read_words(block_, first_, words_));
        }
        return words_[place.page - first_];
    }
    [[nodiscard]] Error refuse(std::uint64_t number) const {
        return {ErrorKind::invalid,
                origin_.file_.name + ": a shared page names page " + std::to_string(number) +
                    ", which is not the first with its data",
                "the area is damaged: check it with snapvm verify"};
    }

    const SnapshotOrigin& origin_;
    BlockId block_{};
    std::uint64_t first_ = 0;
    std::vector<std::uint64_t> words_;
};

Status SnapshotOrigin::read_entries(BlockId id, std::uint64_t first, std::span<Entry> out) const {
    std::array<std::uint64_t, 4096> raw;
    NamedEntries named(*this);
    for (std::size_t done = 0; done < out.size();) {
        const auto part = std::span(raw).first(std::min(raw.size(), out.size() - done));
        TRY(read_words(id, first + done, part));
        for (std::size_t i = 0; i < part.size(); ++i) {
            const PageEntry entry = TRY(PageEntry::decode(part[i]));
            out[done + i] = {entry.page_class, entry.checksum};
            if (entry.page_class == PageClass::shared) {
                out[done + i].checksum = TRY(named.checksum_of({id, first + done + i}, entry.shares));
            }
        }
        done += part.size();
    }
    return {};
}

Status SnapshotOrigin::read_data(BlockId id, std::uint64_t first, std::span<std::byte> out) const {
    const Section* data = superblock_.find(SectionKind::data, static_cast<std::uint32_t>(id));
    if (data == nullptr || first > data->length / kPageSize || out.size() > data->length - first * kPageSize) {
        return fail(ErrorKind::invalid, file_.name + ": the page data is outside of its block");
    }
    return file_.read(out, data->offset + first * kPageSize);
}

}  // namespace snapvm
