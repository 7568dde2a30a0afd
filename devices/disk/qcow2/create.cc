// SPDX-License-Identifier: Apache-2.0
// The clusters of a new image: header, refcount table, refcount blocks, L1 table.
#include "devices/disk/qcow2/create.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <span>
#include <vector>

#include "devices/disk/qcow2/big_endian.h"
#include "devices/disk/qcow2/refcounts.h"
#include "vmm/base/fd.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kEntry = 8;  // of the L1 and the refcount table, in bytes
constexpr std::size_t kZerosAtATime = 1U << 20;

constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t by) {
    return value / by + (value % by == 0 ? 0 : 1);
}

std::unexpected<Error> wrong(std::string what, std::string advice) {
    return fail(ErrorKind::usage, std::move(what), std::move(advice));
}

Status check_version(const CreateOptions& options) {
    if (options.version != 2 && options.version != 3) {
        return wrong("qcow2 has no version " + std::to_string(options.version), "use 3, or 2 for old programs");
    }
    const bool plain = !options.extended_l2 && options.refcount_order == kVersion2RefcountOrder &&
                       options.compression == Compression::zlib;
    if (options.version == 2 && !plain) {
        return wrong("version 2 of qcow2 has no subclusters, no zstd, and reference counts of 16 bits only",
                     "use version 3");
    }
    return {};
}

Status check_clusters(const CreateOptions& options) {
    if (options.cluster_bits < kMinClusterBits || options.cluster_bits > kMaxClusterBits) {
        return wrong("clusters of 2^" + std::to_string(options.cluster_bits) + " bytes are not possible",
                     "use clusters of 512 bytes to 2M");
    }
    if (options.extended_l2 && options.cluster_bits < kMinExtendedL2ClusterBits) {
        return wrong("subclusters need clusters of 16K or more", "use larger clusters, or no subclusters");
    }
    if (options.refcount_order > kMaxRefcountOrder) {
        return wrong("reference counts of 2^" + std::to_string(options.refcount_order) + " bits are not possible",
                     "use 1 to 64 bits");
    }
    return {};
}

Status check_backing(const CreateOptions& options) {
    if (options.backing_file.empty()) {
        return options.backing_format.empty()
                   ? Status()
                   : wrong("there is a format of a backing image, but no backing image", "give both, or none");
    }
    if (options.backing_format != "raw" && options.backing_format != "qcow2") {
        return wrong("the format of the backing image " + options.backing_file +
                         (options.backing_format.empty() ? " is not given" : " is neither raw nor qcow2"),
                     "give format=raw or format=qcow2");
    }
    return {};
}

// A header without the places of its tables.
Header header_of(const CreateOptions& options) {
    Header header;
    header.version = options.version;
    header.cluster_bits = options.cluster_bits;
    header.size = options.size;
    header.refcount_order = options.refcount_order;
    header.has_backing = !options.backing_file.empty();
    header.backing_file = options.backing_file;
    header.backing_format = options.backing_format;
    if (options.version == 3) {
        header.compression = options.compression;
        header.incompatible =
            (options.extended_l2 ? kExtendedL2 : 0) | (options.compression == Compression::zlib ? 0 : kCompressionType);
        header.more_fields.resize(7);  // up to 112 bytes
    }
    return header;
}

Status check_size(const Header& header) {
    if (header.size == 0 || header.size % kSector != 0) {
        return wrong("a disk cannot have " + count_text(header.size, "byte"), "give a multiple of 512, such as 20G");
    }
    const std::uint64_t most = kMaxL1Bytes / kEntry * header.l2_reach();
    if (header.size > most) {
        return wrong(
            "a disk of " + size_text(header.size) + " is too large for clusters of " + size_text(header.cluster_size()),
            "use larger clusters, or at most " + size_text(most));
    }
    return {};
}

// The image's clusters, in this order: header, refcount table, refcount blocks, L1 table.
struct Layout {
    std::uint64_t table_clusters = 1;
    std::uint64_t blocks = 1;
    std::uint64_t l1_clusters = 1;

    [[nodiscard]] std::uint64_t clusters() const { return 1 + table_clusters + blocks + l1_clusters; }
};

Layout layout_of(const Header& header) {
    Layout layout{.l1_clusters = divide_up(header.l1_entries * kEntry, header.cluster_size())};
    // The counts of the counts' own clusters may need more of these.
    while (true) {
        const std::uint64_t blocks = divide_up(layout.clusters(), header.refcounts_per_block());
        const std::uint64_t table_clusters = divide_up(blocks * kEntry, header.cluster_size());
        if (blocks == layout.blocks && table_clusters == layout.table_clusters) {
            return layout;
        }
        layout.blocks = blocks;
        layout.table_clusters = table_clusters;
    }
}

void place(Header& header, const Layout& layout) {
    header.refcount_table_offset = header.cluster_size();
    header.refcount_table_clusters = static_cast<std::uint32_t>(layout.table_clusters);
    header.l1_offset = (1 + layout.table_clusters + layout.blocks) << header.cluster_bits;
}

std::vector<std::byte> refcount_table(const Header& header, const Layout& layout) {
    std::vector<std::byte> table(layout.table_clusters << header.cluster_bits);
    for (std::uint64_t i = 0; i < layout.blocks; ++i) {
        store_be64(table, i * kEntry, (1 + layout.table_clusters + i) << header.cluster_bits);
    }
    return table;
}

// All blocks in a row, with a count of 1 for each of the image's clusters.
std::vector<std::byte> refcount_blocks(const Header& header, const Layout& layout) {
    std::vector<std::byte> blocks(layout.blocks << header.cluster_bits);
    for (std::uint64_t i = 0; i < layout.clusters(); ++i) {
        store_refcount(blocks, header.refcount_order, i, 1);
    }
    return blocks;
}

Status synchronise(int fd, const std::string& name) {
    if (::fsync(fd) != 0) {
        return fail(Error::system("fsync", name, errno));
    }
    return {};
}

Status write_zeros(int fd, std::uint64_t offset, std::uint64_t size, const std::string& name) {
    const std::vector<std::byte> zeros(std::min<std::uint64_t>(size, kZerosAtATime));
    for (std::uint64_t done = 0; done < size; done += zeros.size()) {
        const std::size_t part = std::min<std::uint64_t>(size - done, zeros.size());
        TRY(write_all_at(fd, std::span(zeros).first(part), offset + done, name));
    }
    return {};
}

// Checks the place of the image. Returns whether it is a device.
Result<bool> check_place(int fd, std::uint64_t needed, const std::string& name) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) {
        return fail(Error::system("fstat", name, errno));
    }
    if (S_ISBLK(info.st_mode)) {
        const std::uint64_t room = TRY(device_size(fd, name));
        return room >= needed ? Result<bool>(true)
                              : wrong(name + " is too small for an image: it has " + size_text(room),
                                      "give a device of " + size_text(needed) + " or more");
    }
    if (!S_ISREG(info.st_mode)) {
        return wrong(name + " is neither a file nor a block device", "give a file or a block device");
    }
    return info.st_size == 0 ? Result<bool>(false) : wrong(name + " is not empty", "give a file that does not exist");
}

}  // namespace

Status check_options(const CreateOptions& options) {
    TRY(check_version(options));
    TRY(check_clusters(options));
    TRY(check_backing(options));
    const Header header = header_of(options);
    TRY(check_size(header));
    TRY(encode_header(header));
    return {};
}

Status create_image(int fd, const CreateOptions& options, const std::string& name) {
    TRY(check_options(options));
    Header header = header_of(options);
    header.l1_entries = static_cast<std::uint32_t>(divide_up(header.size, header.l2_reach()));
    const Layout layout = layout_of(header);
    place(header, layout);
    const bool device = TRY(check_place(fd, layout.clusters() << header.cluster_bits, name));
    if (device) {
        // An older image's header would be one of wrong tables.
        TRY(write_zeros(fd, 0, header.cluster_size(), name));
        TRY(synchronise(fd, name));
    }
    const std::uint64_t blocks_offset = header.cluster_size() * (1 + layout.table_clusters);
    TRY(write_all_at(fd, refcount_table(header, layout), header.refcount_table_offset, name));
    TRY(write_all_at(fd, refcount_blocks(header, layout), blocks_offset, name));
    TRY(write_zeros(fd, header.l1_offset, layout.l1_clusters << header.cluster_bits, name));
    if (options.durable) {
        TRY(synchronise(fd, name));
    }
    TRY(write_all_at(fd, TRY(encode_header(header)), 0, name));
    return options.durable ? synchronise(fd, name) : Status{};
}

}  // namespace snapvm::disk::qcow2
