// SPDX-License-Identifier: Apache-2.0
// The check of an image. Each L2 table is read once, whatever the number of its users, so the time
// is bounded by the size of the file.
#include "devices/disk/qcow2/check.h"

#include <algorithm>
#include <set>
#include <span>
#include <utility>

#include "devices/disk/qcow2/checker.h"
#include "devices/disk/qcow2/cluster_use.h"
#include "devices/disk/qcow2/entries.h"
#include "devices/disk/qcow2/refcounts.h"
#include "devices/disk/qcow2/snapshot_table.h"
#include "vmm/base/align.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kMaxAllL1Bytes = 1ULL << 30;  // of all L1 tables together
constexpr std::uint64_t kMaxTableBytes = 64ULL << 20;
constexpr std::uint32_t kBitmapsExtension = 0x23852875;
constexpr std::uint64_t kBitmapsConsistent = 1ULL << 0;  // of the autoclear features

std::string at(std::uint64_t offset) { return " at the offset " + std::to_string(offset); }

}  // namespace

void Checker::error(const std::string& line) {
    ++report.errors;
    if (report.lines.size() < CheckReport::kMaxLines) {
        report.lines.push_back(line);
    }
}

// Returns false if the range is not in the file.
bool Checker::mark(std::uint64_t offset, std::uint64_t size, std::uint32_t times, Use use, const char* what) {
    const std::uint64_t end = file_clusters() * cluster_size_;
    if (size == 0) {
        return true;
    }
    if (offset >= end || size > end - offset) {
        const std::string line = std::string(what) + at(offset) + " is not in the file";
        use == Use::data ? error(line) : lost_table(line);
        return false;
    }
    for (std::uint64_t i = offset / cluster_size_; i <= (offset + size - 1) / cluster_size_; ++i) {
        states_.add(i, times, use);
    }
    return true;
}

void Checker::lost_table(const std::string& line) {
    error(line);
    walked_all_ = false;
}

Status Checker::refuse_too_large() const {
    if (states_.too_large()) {
        return fail(ErrorKind::unsupported, file_.name() + ": the image is too large to be checked in memory");
    }
    return {};
}

Task<Result<Checker::Bytes>> Checker::read(std::uint64_t offset, std::uint64_t size) {
    CO_TRY(refuse_too_large());
    Bytes bytes(size);
    const std::span<std::byte> all = bytes;
    Status status = co_await file_.read(offset, all);
    CO_TRY(status);
    co_return bytes;
}

// --- What the image counts. ---

Task<Status> Checker::load_counts() {
    const std::uint64_t offset = header_.refcount_table_offset;
    const std::uint64_t size = std::uint64_t{header_.refcount_table_clusters} * cluster_size_;
    if (offset == 0 || offset % cluster_size_ != 0 || size == 0 || size > kMaxTableBytes) {
        error("the refcount table is not possible");
        co_return Status{};
    }
    if (!mark(offset, size, 1, Use::other_table, "the refcount table")) {
        co_return Status{};
    }
    auto bytes = co_await read(offset, size);
    CO_TRY(bytes);
    table_is_there_ = true;
    table_.resize(size / 8);
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < table_.size(); ++i) {
        const std::uint64_t block = load_be64(*bytes, i * 8);
        if (block == 0) {
            continue;
        }
        if (block % cluster_size_ != 0 || block >= file_.size() || !seen.insert(block).second) {
            error("the refcount table has an impossible entry: " + std::to_string(block));
            table_changed_ = true;
            continue;
        }
        table_[i] = block;
        Status loaded = co_await load_block(i);
        CO_TRY(loaded);
    }
    co_return Status{};
}

Task<Status> Checker::load_block(std::uint64_t index) {
    auto bytes = co_await read(table_[index], cluster_size_);
    CO_TRY(bytes);
    const std::uint64_t counts = header_.refcounts_per_block();
    for (std::uint64_t i = 0; i < counts; ++i) {
        if (const std::uint64_t count = load_refcount(*bytes, header_.refcount_order, i); count != 0) {
            states_.change(index * counts + i).stored = count;
        }
    }
    co_return Status{};
}

// --- What refers to clusters. ---

Task<Status> Checker::mark_l1(std::uint64_t offset, std::uint64_t entries, bool active) {
    if (offset % cluster_size_ != 0 || (entries > 0 && offset == 0)) {
        lost_table("an L1 table" + at(offset) + " is not at a cluster");
        co_return Status{};
    }
    l1_bytes_ += entries * 8;
    if (l1_bytes_ > kMaxAllL1Bytes) {
        co_return fail(ErrorKind::unsupported, file_.name() + ": the L1 tables are too large to be checked");
    }
    if (!mark(offset, entries * 8, 1, Use::other_table, "an L1 table")) {
        co_return Status{};
    }
    auto bytes = co_await read(offset, entries * 8);
    CO_TRY(bytes);
    for (std::uint64_t i = 0; i < entries; ++i) {
        CO_TRY(refuse_too_large());
        const std::uint64_t word = load_be64(*bytes, i * 8);
        const auto table = parse_l1(header_, word);
        if (!table) {
            lost_table(table.error().what());
        } else if (*table != 0 && mark(*table, cluster_size_, 1, Use::l2_table, "an L2 table")) {
            L2Use& use = l2_tables_[*table];
            ++use.times;
            use.active |= active;
            if (active && ((word & kCopied) != 0) != (states_.get(*table / cluster_size_).stored == 1)) {
                error("the flag \"copied\" of the L2 table" + at(*table) + " is wrong");
            }
        }
    }
    co_return Status{};
}

Task<Status> Checker::mark_snapshots() {
    if (header_.snapshots == 0) {
        co_return Status{};
    }
    auto table = co_await read_snapshots(file_, header_);
    if (!table && table.error().kind() == ErrorKind::invalid) {
        lost_table(table.error().what());
        co_return Status{};
    }
    CO_TRY(table);
    mark(header_.snapshots_offset, table->bytes, 1, Use::other_table, "the snapshot table");
    for (const Snapshot& one : table->snapshots) {
        Status marked = co_await mark_l1(one.l1_offset, one.l1_entries, false);
        CO_TRY(marked);
    }
    co_return Status{};
}

Task<Status> Checker::mark_bitmap(std::uint64_t offset, std::uint64_t entries) {
    l1_bytes_ += entries * 8;
    if (l1_bytes_ > kMaxAllL1Bytes || offset % cluster_size_ != 0) {
        lost_table("a bitmap table" + at(offset) + " is not possible");
        co_return Status{};
    }
    if (!mark(offset, entries * 8, 1, Use::other_table, "a bitmap table")) {
        co_return Status{};
    }
    auto bytes = co_await read(offset, entries * 8);
    CO_TRY(bytes);
    for (std::uint64_t i = 0; i < entries; ++i) {
        CO_TRY(refuse_too_large());
        const std::uint64_t cluster = load_be64(*bytes, i * 8) & kOffsetMask;
        if (cluster % cluster_size_ != 0) {
            lost_table("a bitmap has a cluster" + at(cluster) + ", which is not possible");
        } else if (cluster != 0) {
            mark(cluster, cluster_size_, 1, Use::other_table, "a bitmap's cluster");
        }
    }
    co_return Status{};
}

// Without its autoclear bit the extension means nothing.
Task<Status> Checker::mark_bitmaps() {
    const auto found = std::ranges::find(header_.extensions, kBitmapsExtension, &Extension::type);
    if ((header_.autoclear & kBitmapsConsistent) == 0 || found == header_.extensions.end()) {
        co_return Status{};
    }
    const std::uint64_t size = found->data.size() >= 24 ? load_be64(found->data, 8) : 0;
    const std::uint64_t offset = found->data.size() >= 24 ? load_be64(found->data, 16) : 0;
    if (size == 0 || size > kMaxTableBytes || offset % cluster_size_ != 0) {
        lost_table("the bitmap directory is not possible");
        co_return Status{};
    }
    if (!mark(offset, size, 1, Use::other_table, "the bitmap directory")) {
        co_return Status{};
    }
    auto bytes = co_await read(offset, size);
    CO_TRY(bytes);
    constexpr std::uint64_t kFixedBytes = 24;  // of an entry
    for (std::uint64_t entry = 0; entry + kFixedBytes <= size;) {
        const std::uint64_t table = load_be64(*bytes, entry);
        Status marked = co_await mark_bitmap(table, load_be<std::uint32_t>(*bytes, entry + 8));
        CO_TRY(marked);
        const std::uint64_t more =
            std::uint64_t{load_be<std::uint16_t>(*bytes, entry + 18)} + load_be<std::uint32_t>(*bytes, entry + 20);
        entry += align_up(kFixedBytes + more, 8);
    }
    co_return Status{};
}

Task<Status> Checker::mark_l2(std::uint64_t offset, L2Use use) {
    const DiskIo::Range range = file_.hole_or_data(offset, cluster_size_);
    if (range.hole && range.size == cluster_size_) {
        co_return Status{};  // nothing is allocated, and a sparse file may have many of these
    }
    auto bytes = co_await read(offset, cluster_size_);
    CO_TRY(bytes);
    const std::uint64_t size = header_.l2_entry_size();
    std::uint64_t next = 0;
    for (std::uint64_t i = 0; i < header_.l2_entries(); ++i) {
        const std::uint64_t bitmap = size == 16 ? load_be64(*bytes, i * size + 8) : 0;
        mark_entry(load_be64(*bytes, i * size), bitmap, use, next);
        CO_TRY(refuse_too_large());
    }
    co_return Status{};
}

// `next` is where the cluster after the last one is.
void Checker::mark_entry(std::uint64_t word, std::uint64_t bitmap, L2Use use, std::uint64_t& next) {
    const auto entry = parse_l2(header_, word, bitmap);
    if (!entry) {
        error(entry.error().what());
        // What the entry seems to refer to is not free.
        const std::uint64_t offset = word & kOffsetMask;
        if ((word & kIsCompressed) == 0 && offset != 0 && offset % cluster_size_ == 0 && offset < file_.size()) {
            states_.add(offset / cluster_size_, use.times, Use::data);
        }
        return;
    }
    if (entry->kind == L2Entry::Kind::unallocated) {
        return;
    }
    const bool compressed = entry->kind == L2Entry::Kind::compressed;
    if (use.active) {
        ++report.allocated;
        report.compressed += compressed ? 1 : 0;
        report.fragmented += compressed || (next != 0 && entry->offset != next) ? 1 : 0;
        next = compressed ? next : entry->offset + cluster_size_;
    }
    if (compressed) {
        // The last sector may be cut by the end of the file.
        mark(entry->offset, entry->compressed_size, use.times, Use::data, "a compressed cluster");
        if ((word & kCopied) != 0) {
            error("the flag \"copied\" of a compressed cluster" + at(entry->offset) + " is wrong");
        }
        return;
    }
    if (!mark(entry->offset, cluster_size_, use.times, Use::data, "a data cluster")) {
        return;
    }
    if (use.active && entry->copied != (states_.get(entry->offset / cluster_size_).stored == 1)) {
        error("the flag \"copied\" of the cluster" + at(entry->offset) + " is wrong");
    }
}

void Checker::mark_blocks() {
    for (const std::uint64_t block : table_) {
        if (block != 0) {
            mark(block, cluster_size_, 1, Use::other_table, "a refcount block");
        }
    }
}

void Checker::compare() {
    states_.for_each([this](std::uint64_t cluster, const ClusterState& state) {
        const std::uint64_t offset = cluster * cluster_size_;
        if (state.overlaps()) {
            error("the cluster" + at(offset) + " has two uses of which one is a table");
        }
        if (state.uses > state.stored) {
            counts_are_right_ = false;
            error("the cluster" + at(offset) + " has the count " + std::to_string(state.stored) + " and " +
                  std::to_string(state.uses) + " uses");
        } else if (state.uses < state.stored && cluster < file_clusters()) {
            ++report.leaks;  // what is counted behind the file's end takes no space
        }
        if (state.uses > 0) {
            report.end = offset + cluster_size_;
        }
    });
}

Task<Status> Checker::check() {
    report.clusters = (header_.size + cluster_size_ - 1) / cluster_size_;
    mark(0, cluster_size_, 1, Use::other_table, "the header");
    Status loaded = co_await load_counts();
    CO_TRY(loaded);
    Status active = co_await mark_l1(header_.l1_offset, header_.l1_entries, true);
    CO_TRY(active);
    Status snapshots = co_await mark_snapshots();
    CO_TRY(snapshots);
    Status bitmaps = co_await mark_bitmaps();
    CO_TRY(bitmaps);
    for (const auto& [offset, use] : l2_tables_) {
        Status marked = co_await mark_l2(offset, use);
        CO_TRY(marked);
    }
    mark_blocks();
    compare();
    co_return Status{};
}

namespace {

// Clears the bits that the report proves wrong.
Task<Status> clear_bits(DiskIo& file, HeaderStore& header, const Checker& checker) {
    std::uint64_t cleared = checker.counts_are_right() && checker.walked_all() ? kDirty : 0;
    cleared |= checker.report.errors == 0 ? kCorrupt : 0;
    if ((header.get().incompatible & cleared) == 0) {
        co_return Status{};
    }
    header.change().incompatible &= ~cleared;
    Status written = co_await header.write();
    CO_TRY(written);
    co_return co_await file.flush();
}

}  // namespace

Task<Result<CheckReport>> check_image(DiskIo& file, HeaderStore& header, bool repair) {
    Checker first(file, header);
    Status checked = co_await first.check();
    CO_TRY(checked);
    if (!repair) {
        co_return std::move(first.report);
    }
    if (first.report.errors + first.report.leaks > 0) {
        Status repaired = co_await first.repair();
        CO_TRY(repaired);
    }
    Checker second(file, header);
    Status again = co_await second.check();
    CO_TRY(again);
    Status cleared = co_await clear_bits(file, header, second);
    CO_TRY(cleared);
    second.report.repaired_errors = first.report.errors - std::min(first.report.errors, second.report.errors);
    second.report.repaired_leaks = first.report.leaks - std::min(first.report.leaks, second.report.leaks);
    co_return std::move(second.report);
}

}  // namespace snapvm::disk::qcow2
