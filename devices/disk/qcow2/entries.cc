// SPDX-License-Identifier: Apache-2.0
// Entries of tables as values, and back.
#include "devices/disk/qcow2/entries.h"

#include <string>

#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint32_t kAll = ~std::uint32_t{0};
constexpr std::uint64_t kSector = 512;
constexpr unsigned kDescriptorBits = 62;  // of a compressed cluster
constexpr unsigned kMaxOffsetBits = 56;

std::unexpected<Error> impossible(const std::string& what) {
    return fail(ErrorKind::invalid, what, "take a good copy of the image, or try \"qemu-img check\"");
}

constexpr std::uint64_t low_bits(unsigned count) { return (std::uint64_t{1} << count) - 1; }

// How many bits of a compressed cluster's descriptor are its offset.
unsigned offset_bits(const Header& header) { return kDescriptorBits - (header.cluster_bits - 8); }

// The flag kCopied means nothing here: a compressed cluster is never written in place.
Result<L2Entry> parse_compressed(const Header& header, std::uint64_t word) {
    const std::uint64_t descriptor = word & low_bits(kDescriptorBits);
    const std::uint64_t offset = descriptor & low_bits(offset_bits(header));
    if (offset < header.cluster_size() || offset > low_bits(kMaxOffsetBits)) {
        return impossible("an L2 entry of a compressed cluster has an impossible offset");
    }
    const std::uint64_t more_sectors = descriptor >> offset_bits(header);
    return L2Entry{.kind = L2Entry::Kind::compressed,
                   .offset = offset,
                   .compressed_size = (more_sectors + 1) * kSector - offset % kSector,
                   .allocated = kAll};
}

// Fills in what the parts of a cluster are, which one word says.
Status parse_whole(const Header& header, std::uint64_t word, L2Entry& entry) {
    const bool zero = (word & kReadsZero) != 0;
    if (zero && header.version == 2) {
        return impossible("an L2 entry has the flag for zeros, which version 2 of qcow2 does not have");
    }
    entry.zero = zero ? kAll : 0;
    entry.allocated = !zero && entry.offset != 0 ? kAll : 0;
    return {};
}

Status parse_parts(std::uint64_t word, std::uint64_t bitmap, L2Entry& entry) {
    if ((word & kReadsZero) != 0) {
        return impossible("an L2 entry with subclusters has the flag for zeros of one without");
    }
    entry.allocated = static_cast<std::uint32_t>(bitmap);
    entry.zero = static_cast<std::uint32_t>(bitmap >> kSubclusters);
    if ((entry.allocated & entry.zero) != 0) {
        return impossible("an L2 entry says that a subcluster is both allocated and zero");
    }
    if (entry.allocated != 0 && entry.offset == 0) {
        return impossible("an L2 entry has allocated subclusters without a cluster");
    }
    return {};
}

}  // namespace

Result<L2Entry> parse_l2(const Header& header, std::uint64_t word, std::uint64_t bitmap) {
    if ((word & kIsCompressed) != 0) {
        return parse_compressed(header, word);
    }
    if ((word & ~(kOffsetMask | kCopied | kReadsZero)) != 0) {
        return impossible("an L2 entry has reserved bits");
    }
    L2Entry entry{.copied = (word & kCopied) != 0, .offset = word & kOffsetMask};
    if (entry.offset % header.cluster_size() != 0) {
        return impossible("an L2 entry's offset is not that of a cluster");
    }
    if (entry.copied && entry.offset == 0) {
        return impossible("an L2 entry refers to the image's header as data");
    }
    entry.kind = entry.offset == 0 ? L2Entry::Kind::unallocated : L2Entry::Kind::data;
    if (header.extended_l2()) {
        TRY(parse_parts(word, bitmap, entry));
    } else {
        TRY(parse_whole(header, word, entry));
    }
    return entry;
}

L2Words encode_l2(const Header& header, const L2Entry& entry) {
    if (entry.kind == L2Entry::Kind::compressed) {
        const std::uint64_t more_sectors = (entry.offset % kSector + entry.compressed_size + kSector - 1) / kSector - 1;
        return {.word = kIsCompressed | more_sectors << offset_bits(header) | entry.offset};
    }
    L2Words words{.word = entry.offset | (entry.copied ? kCopied : 0)};
    if (header.extended_l2()) {
        words.bitmap = std::uint64_t{entry.zero} << kSubclusters | entry.allocated;
    } else if (entry.zero != 0) {
        words.word |= kReadsZero;
    }
    return words;
}

Result<std::uint64_t> parse_l1(const Header& header, std::uint64_t word) {
    if ((word & ~(kOffsetMask | kCopied)) != 0) {
        return impossible("an L1 entry has reserved bits");
    }
    const std::uint64_t offset = word & kOffsetMask;
    if (offset % header.cluster_size() != 0) {
        return impossible("an L1 entry's offset is not that of a cluster");
    }
    return offset;
}

}  // namespace snapvm::disk::qcow2
