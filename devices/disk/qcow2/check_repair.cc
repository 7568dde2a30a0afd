// SPDX-License-Identifier: Apache-2.0
// The repair of an image, by what its check found out.
#include <algorithm>
#include <set>
#include <span>

#include "devices/disk/qcow2/checker.h"
#include "devices/disk/qcow2/entries.h"
#include "devices/disk/qcow2/refcounts.h"

namespace snapvm::disk::qcow2 {

bool Checker::absent(std::uint64_t cluster) const {
    const std::uint64_t block = cluster / header_.refcounts_per_block();
    return block < table_.size() && table_[block] == 0;
}

// A block that is something else, too, is not written: another one takes its place.
void Checker::drop_damaged_blocks() {
    for (std::uint64_t& block : table_) {
        if (block != 0 && states_.get(block / cluster_size_).overlaps()) {
            --states_.change(block / cluster_size_).uses;
            block = 0;
            table_changed_ = true;
        }
    }
}

// Puts the blocks that are missing behind the end. A block counts itself, or needs one more.
void Checker::make_blocks() {
    std::uint64_t end = file_clusters();
    std::set<std::uint64_t> missing;
    states_.for_each([&](std::uint64_t cluster, const ClusterState& state) {
        end = std::max(end, state.uses > 0 ? cluster + 1 : 0);
        if (state.uses > 0 && absent(cluster)) {
            missing.insert(cluster / header_.refcounts_per_block());
        }
    });
    while (!missing.empty() && !file_.device()) {
        const std::uint64_t block = *missing.begin();
        missing.erase(missing.begin());
        table_[block] = end * cluster_size_;
        states_.add(end, 1, Use::other_table);
        table_changed_ = true;
        changed_blocks_.insert(block);
        if (absent(end)) {
            missing.insert(end / header_.refcounts_per_block());
        }
        ++end;
    }
}

Task<Status> Checker::write_counts() {
    const std::uint64_t counts = header_.refcounts_per_block();
    const std::uint64_t most = ~0ULL >> (64 - header_.refcount_bits());
    states_.for_each([&](std::uint64_t cluster, const ClusterState& state) {
        const std::uint64_t block = cluster / counts;
        if (state.uses != state.stored && block < table_.size() && table_[block] != 0) {
            changed_blocks_.insert(block);
        }
    });
    for (const std::uint64_t block : changed_blocks_) {
        Bytes bytes(cluster_size_);
        for (std::uint64_t i = 0; i < counts; ++i) {
            const std::uint64_t uses = states_.get(block * counts + i).uses;
            store_refcount(bytes, header_.refcount_order, i, std::min(uses, most));
        }
        const std::span<const std::byte> all = bytes;
        Status written = co_await file_.write(table_[block], all);
        CO_TRY(written);
    }
    co_return co_await file_.flush();
}

Task<Status> Checker::write_table() {
    Bytes bytes(table_.size() * 8);
    for (std::size_t i = 0; i < table_.size(); ++i) {
        store_be64(bytes, i * 8, table_[i]);
    }
    const std::span<const std::byte> all = bytes;
    Status written = co_await file_.write(header_.refcount_table_offset, all);
    CO_TRY(written);
    co_return co_await file_.flush();
}

Task<Status> Checker::correct_l2(std::uint64_t offset) {
    auto bytes = co_await read(offset, cluster_size_);
    CO_TRY(bytes);
    const std::uint64_t size = header_.l2_entry_size();
    bool changed = false;
    for (std::uint64_t i = 0; i < header_.l2_entries(); ++i) {
        const std::uint64_t word = load_be64(*bytes, i * size);
        const auto entry = parse_l2(header_, word, size == 16 ? load_be64(*bytes, i * size + 8) : 0);
        if (!entry || entry->kind == L2Entry::Kind::unallocated) {
            continue;
        }
        const bool copied = entry->kind == L2Entry::Kind::data && states_.get(entry->offset / cluster_size_).uses == 1;
        const std::uint64_t right = (word & ~kCopied) | (copied ? kCopied : 0);
        changed |= right != word;
        store_be64(*bytes, i * size, right);
    }
    if (!changed) {
        co_return Status{};
    }
    const std::span<const std::byte> all = *bytes;
    co_return co_await file_.write(offset, all);
}

Task<Status> Checker::correct_flags() {
    const std::uint64_t l1 = header_.l1_offset;
    const bool own = !states_.get(l1 / cluster_size_).overlaps() && l1 % cluster_size_ == 0 && l1 < file_.size();
    auto bytes = co_await read(l1, own ? std::uint64_t{header_.l1_entries} * 8 : 0);
    CO_TRY(bytes);
    const Bytes before = *bytes;
    for (std::uint64_t i = 0; i < bytes->size(); i += 8) {
        const std::uint64_t word = load_be64(*bytes, i);
        if (const auto table = parse_l1(header_, word); table && *table != 0) {
            const bool copied = states_.get(*table / cluster_size_).uses == 1;
            store_be64(*bytes, i, *table | (copied ? kCopied : 0));
        }
    }
    if (*bytes != before) {
        const std::span<const std::byte> all = *bytes;
        Status written = co_await file_.write(l1, all);
        CO_TRY(written);
    }
    for (const auto& [offset, use] : l2_tables_) {
        if (use.active && !states_.get(offset / cluster_size_).overlaps()) {
            Status corrected = co_await correct_l2(offset);
            CO_TRY(corrected);
        }
    }
    co_return co_await file_.flush();
}

// Counts come first: a flag that says 1 is right only then.
Task<Status> Checker::repair() {
    if (!walked_all_ || !table_is_there_ || states_.get(header_.refcount_table_offset / cluster_size_).overlaps()) {
        co_return Status{};
    }
    drop_damaged_blocks();
    make_blocks();
    Status counts = co_await write_counts();
    CO_TRY(counts);
    if (table_changed_) {
        Status table = co_await write_table();
        CO_TRY(table);
    }
    co_return co_await correct_flags();
}

}  // namespace snapvm::disk::qcow2
