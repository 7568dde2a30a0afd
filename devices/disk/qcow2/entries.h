// SPDX-License-Identifier: Apache-2.0
// The entries of L1 and L2 tables. Source: QEMU, docs/interop/qcow2.rst, "Cluster mapping" and
// "Extended L2 Entries".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "devices/disk/qcow2/big_endian.h"
#include "devices/disk/qcow2/header.h"

namespace snapvm::disk::qcow2 {

inline constexpr std::uint64_t kOffsetMask = 0x00FFFFFFFFFFFE00;  // bits 9 to 55
inline constexpr std::uint64_t kCopied = 1ULL << 63;      ///< the reference count is exactly 1
inline constexpr std::uint64_t kIsCompressed = 1ULL << 62;  // of an L2 entry
inline constexpr std::uint64_t kReadsZero = 1ULL << 0;     // of an L2 entry of version 3 without subclusters
inline constexpr unsigned kSubclusters = 32;

/// An L2 entry, taken apart.
struct L2Entry {
    enum class Kind : std::uint8_t { unallocated, data, compressed };
    Kind kind = Kind::unallocated;
    bool copied = false;
    /// Of data: where its cluster is, a multiple of the cluster size. Of compressed: where its
    /// bytes begin. Of unallocated: 0.
    std::uint64_t offset = 0;
    std::uint64_t compressed_size = 0;  ///< at most; in bytes, up to the end of a sector of 512
    /// A bit for each of kSubclusters parts of the cluster, from the first part on. Without
    /// subclusters all bits are alike. A part that is in neither is the backing image's.
    std::uint32_t allocated = 0;  ///< has its bytes in the cluster
    std::uint32_t zero = 0;       ///< reads as zeros

    bool operator==(const L2Entry&) const = default;
};

/// Parses an entry: `word`, and `bitmap` with subclusters. Fails with invalid for values that are
/// not possible: an offset that is not aligned, reserved bits that change what the entry means, a
/// part that is both allocated and zero, allocated parts without a cluster.
Result<L2Entry> parse_l2(const Header& header, std::uint64_t word, std::uint64_t bitmap);

/// An entry as the table has it.
struct L2Words {
    std::uint64_t word = 0;
    std::uint64_t bitmap = 0;
    [[nodiscard]] bool empty() const { return (word | bitmap) == 0; }  ///< of a cluster that the image lacks
};
/// Inverse of parse_l2(). The entry must be one that the image can have: without subclusters
/// `allocated` and `zero` are all or none; version 2 has no zero.
L2Words encode_l2(const Header& header, const L2Entry& entry);

/// Returns the offset of the L2 table, 0 if there is none. Fails with invalid if it is not aligned.
Result<std::uint64_t> parse_l1(const Header& header, std::uint64_t word);
inline std::uint64_t encode_l1(std::uint64_t offset) { return offset == 0 ? 0 : offset | kCopied; }

}  // namespace snapvm::disk::qcow2
