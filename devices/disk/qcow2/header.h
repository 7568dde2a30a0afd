// SPDX-License-Identifier: Apache-2.0
// The header of a qcow2 image. Source: QEMU, docs/interop/qcow2.rst, "Header".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/disk/io/disk_io.h"
#include "vmm/base/error.h"

namespace snapvm::disk::qcow2 {

inline constexpr std::uint32_t kMagic = 0x514649FB;  // "QFI\xfb"
// Incompatible features.
inline constexpr std::uint64_t kDirty = 1ULL << 0;
inline constexpr std::uint64_t kCorrupt = 1ULL << 1;
inline constexpr std::uint64_t kExternalData = 1ULL << 2;
inline constexpr std::uint64_t kCompressionType = 1ULL << 3;
inline constexpr std::uint64_t kExtendedL2 = 1ULL << 4;
// Compatible features.
inline constexpr std::uint64_t kLazyRefcounts = 1ULL << 0;

// Limits of what is opened and made.
inline constexpr std::uint32_t kMinClusterBits = 9;
inline constexpr std::uint32_t kMinExtendedL2ClusterBits = 14;
inline constexpr std::uint32_t kMaxClusterBits = 21;
inline constexpr std::uint32_t kVersion2RefcountOrder = 4;
inline constexpr std::uint32_t kMaxRefcountOrder = 6;
inline constexpr std::uint64_t kMaxL1Bytes = 32ULL << 20;  ///< of one L1 table
inline constexpr std::uint64_t kMaxRefcountTableBytes = 8ULL << 20;

enum class Compression : std::uint8_t { zlib = 0, zstd = 1 };

/// A header extension that is kept as it is.
struct Extension {
    std::uint32_t type = 0;
    std::vector<std::byte> data;
    bool operator==(const Extension&) const = default;
};

/// All that the first cluster says. A rewritten header keeps what this code does not know.
struct Header {
    std::uint32_t version = 3;  ///< 2 or 3
    std::uint32_t cluster_bits = 16;
    std::uint64_t size = 0;  ///< of the guest's disk, in bytes
    std::uint32_t l1_entries = 0;
    std::uint64_t l1_offset = 0;
    std::uint64_t refcount_table_offset = 0;
    std::uint32_t refcount_table_clusters = 0;
    std::uint32_t snapshots = 0;
    std::uint64_t snapshots_offset = 0;
    std::uint64_t incompatible = 0;  ///< of version 3, as the fields below
    std::uint64_t compatible = 0;
    std::uint64_t autoclear = 0;
    std::uint32_t refcount_order = 4;
    Compression compression = Compression::zlib;
    std::vector<std::byte> more_fields;  ///< from byte 105 on, up to header_length
    bool has_backing = false;
    std::string backing_file;    ///< as the header has it; untrusted
    std::string backing_format;  ///< of the extension, or empty; untrusted
    std::uint64_t name_offset = 0;  ///< of the backing file's name; 0: directly behind the extensions
    std::vector<Extension> extensions;  ///< all others, in their order

    [[nodiscard]] std::uint64_t cluster_size() const { return 1ULL << cluster_bits; }
    [[nodiscard]] bool extended_l2() const { return (incompatible & kExtendedL2) != 0; }
    /// Returns the size of an L2 entry in bytes: 8, or 16 with subclusters.
    [[nodiscard]] std::uint64_t l2_entry_size() const { return extended_l2() ? 16 : 8; }
    [[nodiscard]] std::uint64_t l2_entries() const { return cluster_size() / l2_entry_size(); }
    /// Returns how many bytes of the guest's disk an L2 table is about.
    [[nodiscard]] std::uint64_t l2_reach() const { return l2_entries() << cluster_bits; }
    [[nodiscard]] std::uint64_t refcount_bits() const { return 1ULL << refcount_order; }
    /// Returns how many clusters a refcount block counts.
    [[nodiscard]] std::uint64_t refcounts_per_block() const { return cluster_size() * 8 / refcount_bits(); }
    bool operator==(const Header&) const = default;
};

/// Returns how many bytes of a file parse_header() needs, from the file's first 72 bytes at least.
/// Fails with invalid if they are no header.
Result<std::uint64_t> header_bytes(std::span<const std::byte> begin, const std::string& name);

/// Parses the first cluster of an image, or less if the file is shorter. `name` names the image in
/// errors. Fails with invalid if a field has a value that is not possible, and with unsupported,
/// which names the feature (by the feature name table, too), for encryption, external data files
/// and unknown incompatible features. Sizes are limited: clusters of 512 bytes to 2 MiB, an L1
/// table of 32 MiB, a refcount table of 8 MiB, 65,536 snapshots.
Result<Header> parse_header(std::span<const std::byte> bytes, const std::string& name);

/// Reads the header of an image of `file_bytes` bytes. Fails as parse_header(), and with system.
Result<Header> read_header(int fd, std::uint64_t file_bytes, const std::string& name);

/// Returns the first cluster of an image with this header. Fails with usage if it does not fit.
Result<std::vector<std::byte>> encode_header(const Header& header);

/// The header of an open image, which several parts of the driver change.
class HeaderStore {
public:
    HeaderStore(Header header, DiskIo& file) : header_(std::move(header)), file_(file) {}
    [[nodiscard]] const Header& get() const { return header_; }
    /// For changes that write() writes.
    [[nodiscard]] Header& change() { return header_; }
    /// Writes the first cluster as it is when the writes before have ended. Does not flush.
    Task<Status> write();
    /// Makes `next` the header, durably. If that fails, get() is as before, and the file may have
    /// either. No other call may be under way.
    Task<Status> replace(Header next);
    /// Makes the header that get() returns durable if a replace() has failed. Until then tables
    /// must not change: the file may name others.
    Task<Status> settle();
    /// Names another backing image, or none if both texts are empty, and makes that durable. What
    /// else the first cluster says stays as it is, byte for byte. After a crash, the image has
    /// either name. Fails with usage if the name does not fit, with unsupported if the extensions
    /// would have to move, and with system; the old name then stays in get().
    Task<Status> rebase(std::string file, std::string format);

private:
    Header header_;
    bool in_doubt_ = false;  ///< a replace() has failed
    DiskIo& file_;
    Mutex writing_;  ///< a later write has all that an earlier one has, and must not come before it
};

}  // namespace snapvm::disk::qcow2
