// SPDX-License-Identifier: Apache-2.0
// The table of an image's internal snapshots, read and encoded.
#include "devices/disk/qcow2/snapshot_table.h"

#include <limits>

#include "devices/disk/qcow2/big_endian.h"
#include "vmm/base/align.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kFixedBytes = 40;  // of an entry
constexpr std::uint64_t kKnownExtra = 16;  // of the extra data: the sizes of VM state and disk
constexpr std::uint64_t kMaxExtra = 64ULL << 10;
constexpr std::uint64_t kMaxTable = 64ULL << 20;
constexpr std::size_t kMaxText = std::numeric_limits<std::uint16_t>::max();

void append(std::vector<std::byte>& bytes, std::uint64_t value, unsigned size) {
    for (unsigned i = size; i > 0; --i) {
        bytes.push_back(static_cast<std::byte>(value >> (8 * (i - 1))));
    }
}

void append(std::vector<std::byte>& bytes, std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
}

std::string text_of(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
        text.push_back(static_cast<char>(byte));
    }
    return text;
}

/// How long the parts of an entry are.
struct Lengths {
    std::uint64_t id = 0;
    std::uint64_t name = 0;
    std::uint64_t extra = 0;
    [[nodiscard]] std::uint64_t all() const { return align_up(kFixedBytes + extra + id + name, 8); }
};

Lengths lengths_of(std::span<const std::byte> fixed) {
    Lengths lengths;
    lengths.id = load_be<std::uint16_t>(fixed, 12);
    lengths.name = load_be<std::uint16_t>(fixed, 14);
    lengths.extra = load_be<std::uint32_t>(fixed, 36);
    return lengths;
}

Snapshot parse(std::span<const std::byte> bytes, const Lengths& lengths, const Header& header) {
    Snapshot snapshot;
    snapshot.l1_offset = load_be64(bytes, 0);
    snapshot.l1_entries = load_be<std::uint32_t>(bytes, 8);
    snapshot.seconds = load_be<std::uint32_t>(bytes, 16);
    snapshot.nanoseconds = load_be<std::uint32_t>(bytes, 20);
    snapshot.guest_nanoseconds = load_be64(bytes, 24);
    const std::span<const std::byte> extra = bytes.subspan(kFixedBytes, lengths.extra);
    snapshot.vm_state_size = extra.size() >= 8 ? load_be64(extra, 0) : load_be<std::uint32_t>(bytes, 32);
    snapshot.has_disk_size = extra.size() >= kKnownExtra;
    snapshot.disk_size = snapshot.has_disk_size ? load_be64(extra, 8) : header.size;
    if (extra.size() > kKnownExtra) {
        snapshot.more_data.assign(extra.begin() + kKnownExtra, extra.end());
    }
    snapshot.id = text_of(bytes.subspan(kFixedBytes + lengths.extra, lengths.id));
    snapshot.name = text_of(bytes.subspan(kFixedBytes + lengths.extra + lengths.id, lengths.name));
    return snapshot;
}

std::unexpected<Error> damaged(const DiskIo& file, const std::string& what) {
    return fail(ErrorKind::invalid, file.name() + ": the table of internal snapshots is damaged: " + what,
                "take a good copy of the image, or try \"qemu-img check\"");
}

bool within(const DiskIo& file, std::uint64_t offset, std::uint64_t size) {
    return offset <= file.size() && size <= file.size() - offset;
}

bool has_possible_l1(const DiskIo& file, const Header& header, const Snapshot& snapshot) {
    const std::uint64_t size = std::uint64_t{snapshot.l1_entries} * 8;
    return size <= kMaxL1Bytes && snapshot.l1_offset % header.cluster_size() == 0 &&
           (size == 0 || (snapshot.l1_offset != 0 && within(file, snapshot.l1_offset, size)));
}

}  // namespace

Task<Result<SnapshotTable>> read_snapshots(DiskIo& file, const Header& header) {
    SnapshotTable table;
    if (header.snapshots_offset % header.cluster_size() != 0 || header.snapshots_offset > file.size()) {
        co_return damaged(file, "it is not in the file");
    }
    for (std::uint32_t i = 0; i < header.snapshots; ++i) {
        const std::uint64_t offset = header.snapshots_offset + table.bytes;
        std::vector<std::byte> bytes(kFixedBytes);
        const std::span<std::byte> fixed = bytes;
        Status read = co_await file.read(offset, fixed);
        CO_TRY(read);
        const Lengths lengths = lengths_of(bytes);
        if (lengths.extra > kMaxExtra || table.bytes + lengths.all() > kMaxTable ||
            !within(file, offset, kFixedBytes + lengths.extra + lengths.id + lengths.name)) {
            co_return damaged(file, "an entry is too long");
        }
        bytes.resize(lengths.all());
        const std::span<std::byte> rest = std::span<std::byte>(bytes).subspan(kFixedBytes);
        Status more = co_await file.read(offset + kFixedBytes, rest);
        CO_TRY(more);
        Snapshot snapshot = parse(bytes, lengths, header);
        if (!has_possible_l1(file, header, snapshot)) {
            co_return damaged(file, "an entry has an L1 table that is not in the file");
        }
        table.snapshots.push_back(std::move(snapshot));
        table.bytes += lengths.all();
    }
    co_return table;
}

Result<std::vector<std::byte>> encode_snapshots(std::span<const Snapshot> snapshots) {
    std::vector<std::byte> bytes;
    for (const Snapshot& one : snapshots) {
        if (one.id.size() > kMaxText || one.name.size() > kMaxText || one.more_data.size() > kMaxExtra - kKnownExtra) {
            return fail(ErrorKind::usage, "the name of an internal snapshot is too long", "choose a shorter one");
        }
        append(bytes, one.l1_offset, 8);
        append(bytes, one.l1_entries, 4);
        append(bytes, one.id.size(), 2);
        append(bytes, one.name.size(), 2);
        append(bytes, one.seconds, 4);
        append(bytes, one.nanoseconds, 4);
        append(bytes, one.guest_nanoseconds, 8);
        append(bytes, one.vm_state_size >> 32 == 0 ? one.vm_state_size : 0, 4);
        append(bytes, kKnownExtra + one.more_data.size(), 4);
        append(bytes, one.vm_state_size, 8);
        append(bytes, one.disk_size, 8);
        append(bytes, one.more_data);
        append(bytes, std::as_bytes(std::span(one.id)));
        append(bytes, std::as_bytes(std::span(one.name)));
        bytes.resize(align_up(bytes.size(), 8));
    }
    if (bytes.size() > kMaxTable) {
        return fail(ErrorKind::usage, "the image has too many internal snapshots", "delete some");
    }
    return bytes;
}

}  // namespace snapvm::disk::qcow2
