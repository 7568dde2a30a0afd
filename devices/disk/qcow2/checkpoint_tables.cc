// SPDX-License-Identifier: Apache-2.0
// What checkpoints do to the tables of an image. A cluster's count is the number of ways from L1
// tables to it, so one more L1 table is one more use of all that it leads to.
#include <algorithm>
#include <utility>

#include "devices/disk/qcow2/checkpointer.h"
#include "vmm/base/align.h"
#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::size_t kLoweredAtOnce = 256;

// Adds a cluster to the last run if it follows that.
void append(std::vector<ClusterRun>& runs, std::uint64_t offset, std::uint64_t clusters, unsigned cluster_bits) {
    if (!runs.empty() && runs.back().offset + (runs.back().clusters << cluster_bits) == offset) {
        runs.back().clusters += clusters;
    } else {
        runs.push_back({.offset = offset, .clusters = clusters});
    }
}

}  // namespace

// Takes over the flags of its L1 table, or another table, as the file has it.
void Mapping::replace_l1(std::vector<std::uint64_t> words, std::uint64_t old_offset) {
    const std::uint64_t cluster_size = header_.get().cluster_size();
    ClusterRun run{.offset = old_offset, .clusters = 1};
    refcounts_->unprotect(run);
    for (const std::uint64_t table : tables_) {
        run.offset = table;
        refcounts_->unprotect(run);
    }
    const std::unordered_set<std::uint64_t> before = std::exchange(tables_, {});
    l1_ = std::move(words);
    protect(header_.get().l1_offset, l1_.size() * 8);
    for (const std::uint64_t word : l1_) {
        if (const std::uint64_t table = word & kOffsetMask; table != 0) {
            tables_.insert(table);
            protect(table, cluster_size);
        }
    }
    for (const std::uint64_t table : before) {
        if (!tables_.contains(table)) {
            forget_table(table);
        }
    }
}

// --- Checks. ---

std::unexpected<Error> Checkpointer::damaged(const std::string& what) const {
    return fail(ErrorKind::invalid, file_.name() + ": a checkpoint is damaged: " + what,
                "take a good copy of the image, or try \"qemu-img check -r all\" on a copy");
}

// Only the L2 tables may be tables of the disk, too.
Status Checkpointer::check_l1(std::uint64_t offset, const Words& words) const {
    const ClusterRun own = run_of(offset, words.size() * 8);
    for (std::uint64_t i = 0; i < own.clusters; ++i) {
        if (layer_.refcounts_->is_table(offset + (i << cluster_bits_))) {
            return damaged("its L1 table is another table, too");
        }
    }
    Words tables;
    for (const std::uint64_t word : words) {
        const Result<std::uint64_t> table = parse_l1(header(), word);
        if (!table) {
            return damaged(table.error().what());
        }
        if (*table == 0) {
            continue;
        }
        const bool other = layer_.refcounts_->is_table(*table) && !layer_.mapping_->is_l2_table(*table);
        if (*table >= file_.size() || other || (*table >= own.offset && *table - own.offset < words.size() * 8)) {
            return damaged("an L2 table is not where it can be");
        }
        tables.push_back(*table);
    }
    std::ranges::sort(tables);
    if (std::ranges::adjacent_find(tables) != tables.end()) {
        return damaged("two of its L2 tables are the same");
    }
    return {};
}

// Reads the first entries of a checkpoint's L1 table, without their flags.
Task<Result<Checkpointer::Words>> Checkpointer::read_l1(const Snapshot& snapshot, std::uint64_t entries) {
    if (entries > snapshot.l1_entries) {
        co_return damaged("its L1 table is too small for its disk");
    }
    Bytes bytes(entries * 8);
    if (!bytes.empty()) {
        const std::span<std::byte> all = bytes;
        Status read = co_await file_.read(snapshot.l1_offset, all);
        CO_TRY(read);
    }
    Words words(entries);
    for (std::size_t i = 0; i < entries; ++i) {
        words[i] = load_be64(bytes, i * 8);
    }
    Status possible = check_l1(snapshot.l1_offset, words);
    CO_TRY(possible);
    for (std::uint64_t& word : words) {
        word &= ~kCopied;
    }
    co_return words;
}

Task<Status> Checkpointer::check_l2(const Words& words) {
    for (const std::uint64_t word : words) {
        Result<std::vector<ClusterRun>> uses = co_await uses_of(word);
        CO_TRY(uses);
    }
    co_return Status{};
}

// --- What an L2 table uses. ---

Task<Result<Checkpointer::Bytes>> Checkpointer::read_l2(std::uint64_t word) {
    Bytes bytes(cluster_size());
    const std::span<std::byte> all = bytes;
    Status read = co_await file_.read(word & kOffsetMask, all);
    CO_TRY(read);
    co_return bytes;
}

Status Checkpointer::collect(const Bytes& table, std::vector<ClusterRun>& uses) const {
    const std::uint64_t size = header().l2_entry_size();
    for (std::uint64_t at = 0; at < table.size(); at += size) {
        const std::uint64_t bitmap = header().extended_l2() ? load_be64(table, at + 8) : 0;
        const Result<L2Entry> entry = parse_l2(header(), load_be64(table, at), bitmap);
        if (!entry) {
            return damaged(entry.error().what());
        }
        if (entry->kind == L2Entry::Kind::unallocated) {
            continue;
        }
        if (entry->offset >= file_.size() || layer_.refcounts_->is_table(entry->offset)) {
            return damaged("an L2 entry refers to what cannot be data");
        }
        const bool compressed = entry->kind == L2Entry::Kind::compressed;
        const ClusterRun run = run_of(entry->offset, compressed ? entry->compressed_size : cluster_size());
        append(uses, run.offset, run.clusters, cluster_bits_);
    }
    return {};
}

// Returns the clusters that an L1 entry leads to, each as often as it is used.
Task<Result<std::vector<ClusterRun>>> Checkpointer::uses_of(std::uint64_t word) {
    std::vector<ClusterRun> uses;
    if ((word & kOffsetMask) == 0) {
        co_return uses;
    }
    uses.push_back(run_of(word & kOffsetMask, cluster_size()));
    Result<Bytes> table = co_await read_l2(word);
    CO_TRY(table);
    Status collected = collect(*table, uses);
    CO_TRY(collected);
    co_return uses;
}

// --- Clusters. ---

// Writes bytes into new clusters. Their counts are on the disk with the next write_raised().
Task<Result<ClusterRun>> Checkpointer::write_new(std::span<const std::byte> bytes) {
    ClusterRun run;
    if (bytes.empty()) {
        co_return run;
    }
    run.clusters = run_of(0, bytes.size()).clusters;
    Result<std::uint64_t> place = co_await layer_.refcounts_->allocate_exactly(run.clusters);
    CO_TRY(place);
    run.offset = *place;
    Bytes whole(run.clusters << cluster_bits_);
    std::ranges::copy(bytes, whole.begin());
    const std::span<const std::byte> all = whole;
    Status written = co_await file_.write(run.offset, all);
    if (!written) {
        co_await give_back(run);
        co_return fail(std::move(written).error());
    }
    co_return run;
}

// Lowers the counts of clusters to which nothing on the disk refers.
Task<> Checkpointer::give_back(ClusterRun run) {
    if (run.clusters != 0) {
        co_await lower_runs(std::span<const ClusterRun>(&run, 1));
    }
}

// Counts one more use of all that these L1 entries lead to, durably; or none if it fails.
Task<Status> Checkpointer::raise(const Words& words) {
    std::uint64_t raised = 0;
    Status status = co_await raise_counted(words, raised);
    if (status) {
        status = co_await layer_.refcounts_->write_raised();
    }
    if (!status) {
        co_await lower(words, raised);
    }
    co_return status;
}

Task<Status> Checkpointer::raise_one(ClusterRun run) {
    if (layer_.refcounts_->crowded()) {
        Status written = co_await layer_.refcounts_->write_raised();
        CO_TRY(written);
    }
    Status raised = co_await layer_.refcounts_->raise(run);
    if (raised) {
        co_return raised;
    }
    const std::uint64_t most = ~0ULL >> (64 - header().refcount_bits());
    for (std::uint64_t i = 0; i < run.clusters; ++i) {
        Result<std::uint64_t> count = co_await layer_.refcounts_->count(run.offset + (i << cluster_bits_));
        if (count && *count == most) {
            co_return fail(ErrorKind::unsupported,
                           file_.name() + ": a cluster has as many uses as reference counts of " +
                               std::to_string(header().refcount_bits()) + " bits can count",
                           "remove a checkpoint, or convert the image to one with larger counts");
        }
    }
    co_return raised;
}

Task<Status> Checkpointer::raise_counted(const Words& words, std::uint64_t& raised) {
    for (const std::uint64_t word : words) {
        Result<std::vector<ClusterRun>> uses = co_await uses_of(word);
        CO_TRY(uses);
        for (const ClusterRun& run : *uses) {
            Status one_more = co_await raise_one(run);
            CO_TRY(one_more);
            ++raised;
        }
    }
    co_return Status{};
}

// Takes back the first `most` runs that raise() would raise. What cannot be read stays as it is.
Task<> Checkpointer::lower(const Words& words, std::uint64_t most) {
    for (const std::uint64_t word : words) {
        if (most == 0) {
            co_return;
        }
        Result<std::vector<ClusterRun>> uses = co_await uses_of(word);
        if (!uses) {
            right_ = false;
            co_return;
        }
        uses->resize(std::min<std::uint64_t>(uses->size(), most));
        most -= uses->size();
        co_await lower_runs(*uses);
    }
}

Task<> Checkpointer::lower_runs(std::span<const ClusterRun> runs) {
    for (std::size_t done = 0; done < runs.size(); done += kLoweredAtOnce) {
        const auto some = runs.subspan(done, std::min(kLoweredAtOnce, runs.size() - done));
        if (layer_.options_.discard) {
            co_await layer_.discard_free(some);
        }
        std::vector<ClusterRun> copy(some.begin(), some.end());
        Result<std::vector<ClusterRun>> freed = co_await layer_.refcounts_->lower(std::move(copy));
        right_ &= freed.has_value();
        if (layer_.refcounts_->crowded()) {
            Status written = co_await layer_.refcounts_->write_raised();
            right_ &= written.has_value();
        }
    }
}

// --- The flag that says that a count is 1. ---

Task<Result<bool>> Checkpointer::flag_of(std::uint64_t offset, Flags flags) {
    if (flags == Flags::clear) {
        co_return false;
    }
    Result<std::uint64_t> count = co_await layer_.refcounts_->count(offset);
    CO_TRY(count);
    co_return *count == 1;
}

// Changes the table in the file, in place: a torn write leaves the flags of some sectors as they
// were.
Task<Status> Checkpointer::set_l2_flags(std::uint64_t word, Flags flags) {
    Result<Bytes> table = co_await read_l2(word);
    CO_TRY(table);
    bool changed = false;
    for (std::uint64_t at = 0; at < table->size(); at += header().l2_entry_size()) {
        const std::uint64_t entry = load_be64(*table, at);
        if ((entry & kIsCompressed) != 0 || (entry & kOffsetMask) == 0) {
            continue;
        }
        Result<bool> flag = co_await flag_of(entry & kOffsetMask, flags);
        CO_TRY(flag);
        const std::uint64_t right = (entry & ~kCopied) | (*flag ? kCopied : 0);
        changed |= right != entry;
        store_be64(*table, at, right);
    }
    if (!changed) {
        co_return Status{};
    }
    layer_.mapping_->forget_table(word & kOffsetMask);
    const std::span<const std::byte> all = *table;
    co_return co_await file_.write(word & kOffsetMask, all);
}

Task<Status> Checkpointer::set_flags(const Words& words, Flags flags) {
    for (const std::uint64_t word : words) {
        if ((word & kOffsetMask) != 0) {
            Status set = co_await set_l2_flags(word, flags);
            CO_TRY(set);
        }
    }
    co_return co_await file_.flush();
}

// Sets the flags of the disk's first L1 entries. A flag that is not set costs a copy of the table
// when it changes. A flag that is set wrongly would cost a checkpoint its bytes.
Task<Status> Checkpointer::set_l1_flags(std::uint64_t entries, Flags flags) {
    Words words = layer_.mapping_->l1();
    for (std::uint64_t i = 0; i < entries; ++i) {
        const std::uint64_t table = words[i] & kOffsetMask;
        if (table != 0) {
            Result<bool> flag = co_await flag_of(table, flags);
            CO_TRY(flag);
            words[i] = table | (*flag ? kCopied : 0);
        }
    }
    if (words == layer_.mapping_->l1()) {
        co_return Status{};
    }
    Bytes bytes(align_up(words.size() * 8, kSector));
    for (std::size_t i = 0; i < words.size(); ++i) {
        store_be64(bytes, i * 8, words[i]);
    }
    layer_.mapping_->replace_l1(std::move(words), header().l1_offset);
    const std::span<const std::byte> all = bytes;
    Status written = co_await file_.write(header().l1_offset, all);
    CO_TRY(written);
    co_return co_await file_.flush();
}

// After counts were lowered: makes that durable, and sets flags by it.
Task<> Checkpointer::free_unused() {
    Status status = co_await layer_.refcounts_->write_raised();
    const Words words = layer_.mapping_->l1();
    if (status) {
        status = co_await set_flags(words, Flags::correct);
    }
    if (status) {
        status = co_await set_l1_flags(words.size(), Flags::correct);
    }
    right_ &= status.has_value();
}

}  // namespace snapvm::disk::qcow2
