// SPDX-License-Identifier: Apache-2.0
// Looks up and changes entries of L1 and L2 tables.
#include "devices/disk/qcow2/mapping.h"

#include <algorithm>
#include <cstring>

#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr unsigned kSubclusterBits = 5;  // of their number in a cluster
static_assert(kSubclusters == 1U << kSubclusterBits);

constexpr std::uint64_t rest_of(std::uint64_t offset, std::uint32_t bits) { return offset & ((1ULL << bits) - 1); }

Run::Kind kind_of(const L2Entry& entry, std::uint64_t part) {
    const std::uint32_t bit = std::uint32_t{1} << part;
    if (entry.kind == L2Entry::Kind::compressed) {
        return Run::Kind::compressed;
    }
    if ((entry.allocated & bit) != 0) {
        return Run::Kind::data;
    }
    return (entry.zero & bit) != 0 ? Run::Kind::zero : Run::Kind::backing;
}

// Returns whether all parts of the cluster are of one kind.
bool has_one_kind(const L2Entry& entry) {
    constexpr std::uint32_t kAll = ~std::uint32_t{0};
    return entry.allocated == kAll || entry.zero == kAll || (entry.allocated | entry.zero) == 0;
}

// Grows `run` by the part of a cluster that begins at `in_cluster`. Returns false if it is of
// another kind, or elsewhere in the file.
bool extend(Run& run, const L2Entry& entry, std::uint64_t part, std::uint64_t in_cluster, std::uint64_t size) {
    const Run::Kind kind = kind_of(entry, part);
    const std::uint64_t host = entry.offset + in_cluster;
    if (run.size == 0) {
        run.kind = kind;
        run.host = kind == Run::Kind::data ? host : entry.offset;
        run.compressed_size = entry.compressed_size;
        run.copied = kind == Run::Kind::data && entry.copied;
    } else if (kind != run.kind || kind == Run::Kind::compressed ||
               (kind == Run::Kind::data && (host != run.host + run.size || entry.copied != run.copied))) {
        return false;
    }
    run.size += size;
    return true;
}

}  // namespace

Mapping::Mapping(DiskIo& file, HeaderStore& header, Refcounts* refcounts, std::size_t max_pieces)
    : file_(file),
      header_(header),
      refcounts_(refcounts),
      pieces_(file, header.get().cluster_size(), max_pieces),
      cluster_bits_(header.get().cluster_bits),
      extended_(header.get().extended_l2()),
      entry_bits_(extended_ ? 4 : 3),
      table_bits_(cluster_bits_ - entry_bits_) {}

Task<Result<std::unique_ptr<Mapping>>> Mapping::open(DiskIo& file, HeaderStore& header, Refcounts* refcounts,
                                                     std::size_t max_pieces) {
    std::unique_ptr<Mapping> mapping(new Mapping(file, header, refcounts, max_pieces));
    Status loaded = co_await mapping->load();
    CO_TRY(loaded);
    co_return mapping;
}

Task<Status> Mapping::load() {
    const Header& header = header_.get();
    const std::uint64_t bytes = std::uint64_t{header.l1_entries} * 8;
    if (header.l1_offset > file_.size() || bytes > file_.size() - header.l1_offset) {
        co_return damage("the L1 table is not within the file");
    }
    if (header.size != 0 && (header.size - 1) / header.l2_reach() >= header.l1_entries) {
        co_return damage("the L1 table is too small for the disk");
    }
    std::vector<std::byte> table(bytes);
    if (bytes != 0) {
        Status read = co_await file_.read(header.l1_offset, table);
        CO_TRY(read);
    }
    protect(header.l1_offset, bytes);
    l1_.resize(header.l1_entries);
    for (std::size_t i = 0; i < l1_.size(); ++i) {
        l1_[i] = load_be64(table, i * 8);
        const Result<std::uint64_t> offset = parse_l1(header, l1_[i]);
        if (!offset) {
            co_return damage(offset.error().what());
        }
        if (*offset != 0 && (*offset >= file_.size() || is_metadata(*offset, header.cluster_size()))) {
            co_return damage("an L2 table is not where it can be");
        }
        if (*offset != 0) {
            tables_.insert(*offset);
            protect(*offset, header.cluster_size());
        }
    }
    co_return {};
}

std::unexpected<Error> Mapping::damage(const std::string& what) {
    damaged_ = true;
    return fail(ErrorKind::invalid, file_.name() + ": " + what,
                "take a good copy of the image, or try \"qemu-img check -r all\" on a copy");
}

Mapping::Place Mapping::place(std::uint64_t cluster) const {
    const std::uint64_t word = l1_[l1_index(cluster)];
    return {.table = word & kOffsetMask,
            .offset = rest_of(cluster, table_bits_) << entry_bits_,
            .own = (word & kCopied) != 0};
}

std::uint64_t Mapping::in_piece(std::uint64_t cluster) const {
    return (pieces_.piece_size() - (place(cluster).offset & (pieces_.piece_size() - 1))) >> entry_bits_;
}

// Refcount blocks are not in this: only the refcounts know where they are (Refcounts::is_table).
bool Mapping::is_metadata(std::uint64_t offset, std::uint64_t size) const {
    const Header& header = header_.get();
    const auto overlaps = [=](std::uint64_t begin, std::uint64_t bytes) {
        return bytes != 0 && offset < begin + bytes && begin < offset + size;
    };
    return overlaps(0, header.cluster_size()) || overlaps(header.l1_offset, std::uint64_t{header.l1_entries} * 8) ||
           overlaps(header.refcount_table_offset,
                    std::uint64_t{header.refcount_table_clusters} << header.cluster_bits) ||
           tables_.contains(offset & ~(header.cluster_size() - 1));
}

Status Mapping::check(const L2Entry& entry) {
    if (entry.offset == 0) {
        return {};
    }
    if (entry.offset >= file_.size()) {
        return damage("an L2 entry refers to what is outside of the file");
    }
    const std::uint64_t size = entry.kind == L2Entry::Kind::compressed ? 1 : header_.get().cluster_size();
    if (is_metadata(entry.offset, size) || (refcounts_ != nullptr && refcounts_->is_table(entry.offset))) {
        return damage("an L2 entry refers to the header or a table as data");
    }
    return {};
}

// Keeps clusters of tables from being allocated, whatever their counts say.
void Mapping::protect(std::uint64_t offset, std::uint64_t bytes) {
    if (refcounts_ != nullptr && bytes != 0) {
        const std::uint64_t clusters = (bytes + header_.get().cluster_size() - 1) >> header_.get().cluster_bits;
        refcounts_->protect(ClusterRun{.offset = offset, .clusters = clusters});
    }
}

// `piece` has the bytes around the entry; it is empty if there is no table.
L2Words Mapping::words_at(std::span<const std::byte> piece, const Place& at) const {
    if (at.table == 0) {
        return {};
    }
    const std::size_t position = at.offset & (pieces_.piece_size() - 1);
    return {.word = load_be64(piece, position), .bitmap = extended_ ? load_be64(piece, position + 8) : 0};
}

Result<L2Entry> Mapping::entry_at(std::span<const std::byte> piece, const Place& at) {
    const L2Words words = words_at(piece, at);
    if (words.empty()) {
        return L2Entry{};
    }
    Result<L2Entry> entry = parse_l2(header_.get(), words.word, words.bitmap);
    if (!entry) {
        return damage(entry.error().what());
    }
    entry->copied = entry->copied && at.own;
    TRY(check(*entry));
    return entry;
}

Task<Result<std::vector<L2Entry>>> Mapping::entries(std::uint64_t cluster, std::uint64_t count) {
    Place at = place(cluster);
    std::vector<L2Entry> result(std::min(count, in_piece(cluster)));
    if (at.table == 0) {
        co_return result;
    }
    Result<TableCache::Ref> piece = co_await pieces_.get(at.table + at.offset);
    CO_TRY(piece);
    for (L2Entry& entry : result) {
        const Result<L2Entry> found = entry_at(piece->bytes(), at);
        CO_TRY(found);
        entry = *found;
        at.offset += std::uint64_t{1} << entry_bits_;
    }
    co_return result;
}

// `at` is the place of the first entry.
Result<Run> Mapping::run_of(std::span<const std::byte> piece, std::uint64_t offset, std::uint64_t size, Place at) {
    const std::uint32_t part_bits = cluster_bits_ - kSubclusterBits;
    const std::uint64_t cluster = offset >> cluster_bits_;
    const std::uint64_t end = std::min(offset + size, (cluster + in_piece(cluster)) << cluster_bits_);
    Run run;
    for (std::uint64_t next = offset; next < end; at.offset += std::uint64_t{1} << entry_bits_) {
        const Result<L2Entry> entry = entry_at(piece, at);
        if (!entry) {
            return fail(Error(entry.error()));
        }
        const bool whole = entry->kind == L2Entry::Kind::compressed || has_one_kind(*entry);
        const std::uint64_t step = std::uint64_t{1} << (whole ? cluster_bits_ : part_bits);
        const std::uint64_t cluster_end = std::min(((next >> cluster_bits_) + 1) << cluster_bits_, end);
        while (next < cluster_end) {
            const std::uint64_t in_cluster = rest_of(next, cluster_bits_);
            const std::uint64_t bytes = std::min(step - (next & (step - 1)), cluster_end - next);
            if (!extend(run, *entry, in_cluster >> part_bits, in_cluster, bytes)) {
                return run;
            }
            next += bytes;
        }
    }
    return run;
}

Task<Result<Run>> Mapping::look(std::uint64_t offset, std::uint64_t size) {
    const Place at = place(offset >> cluster_bits_);
    if (at.table == 0) {
        co_return run_of({}, offset, size, at);
    }
    Result<TableCache::Ref> piece = co_await pieces_.get(at.table + at.offset);
    CO_TRY(piece);
    co_return run_of(piece->bytes(), offset, size, at);
}

std::optional<Run> Mapping::look_in_memory(std::uint64_t offset, std::uint64_t size) {
    const Place at = place(offset >> cluster_bits_);
    std::span<const std::byte> piece;
    if (at.table != 0) {
        piece = pieces_.peek(at.table + at.offset);
        if (piece.empty()) {
            return std::nullopt;
        }
    }
    // Most images of a long chain say this, and a read asks each of them.
    if (words_at(piece, at).empty() && rest_of(offset, cluster_bits_) + size <= 1ULL << cluster_bits_) {
        return Run{.size = size};
    }
    const Result<Run> run = run_of(piece, offset, size, at);
    return run ? std::optional<Run>(*run) : std::nullopt;
}

Task<> Mapping::gate() {
    while (closed_) {
        co_await opened_.wait();
    }
}

void Mapping::open_gate() {
    closed_ = false;
    opened_.wake_all();
}

Task<Result<TableCache::Ref>> Mapping::writable(std::uint64_t cluster) {
    const std::uint64_t index = l1_index(cluster);
    if ((l1_[index] & kCopied) == 0) {
        auto alone = co_await making_.lock();
        if ((l1_[index] & kCopied) == 0) {
            Status made = co_await make_table(index);
            CO_TRY(made);
        }
    }
    const Place at = place(cluster);
    co_return co_await pieces_.get(at.table + at.offset);
}

Task<Status> Mapping::copy_table(std::uint64_t from, std::uint64_t to) {
    const std::size_t step = pieces_.piece_size();
    for (std::uint64_t at = 0; at < header_.get().cluster_size(); at += step) {
        if (from == 0) {
            pieces_.make(to + at);
            continue;
        }
        Result<TableCache::Ref> source = co_await pieces_.get(from + at);
        CO_TRY(source);
        TableCache::Ref target = pieces_.make(to + at);
        std::memcpy(target.change().data(), source->bytes().data(), step);
    }
    co_return {};
}

Task<Status> Mapping::make_table(std::uint64_t index) {
    const std::uint64_t old = l1_[index] & kOffsetMask;
    Result<std::uint64_t> table = co_await refcounts_->allocate_exactly(1);
    CO_TRY(table);
    ClusterRun run{.offset = *table, .clusters = 1};
    Status copied = co_await copy_table(old, *table);
    co_await gate();  // also before the pieces are forgotten: a commit may be writing them
    if (!copied) {
        forget_table(*table);
        refcounts_->release(run);
        co_return copied;
    }
    l1_[index] = encode_l1(*table);
    changed_sectors_.insert(index * 8 / kSector);
    tables_.insert(*table);
    protect(*table, header_.get().cluster_size());
    if (old != 0) {
        tables_.erase(old);
        replaced_.push_back(old);
        run.offset = old;
        refcounts_->unprotect(run);
        refcounts_->release(run);
    }
    co_return {};
}

Task<> Mapping::set(TableCache::Ref& piece, std::uint64_t cluster, std::span<const L2Entry> entries) {
    co_await gate();
    const Header& header = header_.get();
    const std::span<std::byte> bytes = piece.change();
    std::size_t position = place(cluster).offset % pieces_.piece_size();
    for (const L2Entry& entry : entries) {
        const L2Words words = encode_l2(header, entry);
        store_be64(bytes, position, words.word);
        if (header.extended_l2()) {
            store_be64(bytes, position + 8, words.bitmap);
        }
        position += header.l2_entry_size();
    }
}

std::vector<Mapping::L1Change> Mapping::take_l1_changes() {
    std::vector<L1Change> changes;
    for (const std::uint64_t sector : std::exchange(changed_sectors_, {})) {
        const std::uint64_t first = sector * kSector / 8;
        const std::uint64_t count = std::min<std::uint64_t>(kSector / 8, l1_.size() - first);
        L1Change change{.offset = header_.get().l1_offset + sector * kSector, .bytes = {}};
        change.bytes.resize(count * 8);
        for (std::uint64_t i = 0; i < count; ++i) {
            store_be64(change.bytes, i * 8, l1_[first + i]);
        }
        changes.push_back(std::move(change));
    }
    return changes;
}

void Mapping::put_back(const std::vector<L1Change>& changes) {
    for (const L1Change& change : changes) {
        changed_sectors_.insert((change.offset - header_.get().l1_offset) / kSector);
    }
}

}  // namespace snapvm::disk::qcow2
