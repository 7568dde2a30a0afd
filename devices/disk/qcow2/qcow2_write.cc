// SPDX-License-Identifier: Apache-2.0
// Writes to a qcow2 image: in place where the image has the bytes for itself, into newly allocated
// clusters elsewhere. An entry changes after its data is written, so it never names other bytes.
#include <algorithm>

#include "devices/disk/qcow2/layer.h"
#include "vmm/base/align.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::size_t kTogether = 32;  // parts of one request

// Returns whether the image has a cluster for this entry that nothing else refers to.
bool has_own(const L2Entry& entry) { return entry.kind == L2Entry::Kind::data && entry.copied; }

// Returns whether bytes must be copied from the cluster when its entry gets another one.
bool must_move(const L2Entry& entry) { return !has_own(entry) && entry.allocated != 0; }

bool has(const L2Entry& entry, std::uint64_t part) { return (entry.allocated >> part & 1) != 0; }

}  // namespace

Task<Status> Layer::write(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    return change(offset, size, write_range(offset, size, parts));
}

Task<Status> Layer::change(std::uint64_t offset, std::uint64_t size, Task<Status> work) {
    Status within = check_range(offset, size);
    CO_TRY(within);
    co_return co_await carry_out(std::move(work));
}

Task<Status> Layer::carry_out(Task<Status> work) {
    Status status;
    if (!may_write()) {
        status = co_await begin_writing();
        CO_TRY(status);
    }
    {
        const CallTickets::Ticket ticket(calls_);
        status = co_await work;
        if (mapping_->damaged()) {
            co_await note_damage();
        }
    }
    if (!crowded()) {
        co_return status;
    }
    Status made = co_await commit_if_crowded();
    CO_TRY(status);
    co_return made;
}

Task<Status> Layer::write_range(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    if (const std::optional<Run> run = run_of_all(offset, size)) {
        if (run->copied) {
            co_return co_await file_->write(run->host, parts);
        }
        co_return co_await write_locked(offset, size, parts);
    }
    TaskGroup group(kTogether);
    std::vector<Parts> sources;  // their buffers stay where they are when the vector grows
    Status looked;
    for (std::uint64_t done = 0; done < size && !group.failed();) {
        Result<Run> run = co_await mapping_->look(offset + done, size - done);
        if (!run) {
            looked = fail(std::move(run).error());
            break;
        }
        const Parts& source = sources.emplace_back(slice(parts, done, run->size));
        if (run->copied) {
            co_await group.add(file_->write(run->host, std::span<const iovec>(source)));
        } else {
            co_await group.add(write_locked(offset + done, run->size, source));
        }
        done += run->size;
    }
    Status ended = co_await group.wait();
    CO_TRY(looked);
    co_return ended;
}

Task<Status> Layer::write_locked(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    const std::uint64_t first = offset >> header().cluster_bits;
    const std::uint64_t last = (offset + size - 1) >> header().cluster_bits;
    auto alone = co_await clusters_.lock(first, last - first + 1);
    for (std::uint64_t done = 0; done < size;) {
        const Parts rest = slice(parts, done, size - done);
        Result<std::uint64_t> wrote = co_await write_some(offset + done, size - done, rest);
        CO_TRY(wrote);
        done += *wrote;
    }
    co_return {};
}

// Writes the first bytes, at least those in one cluster, and returns how many. The clusters are
// locked.
Task<Result<std::uint64_t>> Layer::write_some(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    const std::uint64_t cluster = offset >> header().cluster_bits;
    const std::uint64_t last = (offset + size - 1) >> header().cluster_bits;
    Result<TableCache::Ref> piece = co_await mapping_->writable(cluster);
    CO_TRY(piece);
    Result<std::vector<L2Entry>> found = co_await mapping_->entries(cluster, last - cluster + 1);
    CO_TRY(found);
    Result<Target> target = co_await choose_target(*found);
    CO_TRY(target);
    found->resize(target->clusters);
    const Span span = span_of(offset, size, *found, *target);
    const Parts source = slice(parts, 0, span.end - span.begin);
    const std::uint64_t host = target->offset + (span.fill_begin - align_down(span.fill_begin, cluster_size()));
    Status written = co_await write_span(span, host, source);
    if (!written) {
        if (target->allocated) {
            refcounts_->release(ClusterRun{.offset = target->offset, .clusters = target->clusters});
        }
        co_return fail(std::move(written).error());
    }
    std::vector<L2Entry> entries = *found;
    for (std::uint64_t i = 0; i < entries.size(); ++i) {
        const std::uint32_t touched = mask_of(cluster + i, span.begin, span.end);
        L2Entry entry{.kind = L2Entry::Kind::data, .copied = true};
        entry.offset = target->offset + (i << header().cluster_bits);
        entry.allocated = entries[i].allocated | touched;
        entry.zero = entries[i].zero & ~entry.allocated;
        entries[i] = entry;
    }
    co_await replace_entries(*piece, cluster, *found, entries);
    co_return span.end - span.begin;
}

// Takes the clusters that the entries have if they may be written, and new ones otherwise. The
// target is for the first entries that are alike in this.
Task<Result<Layer::Target>> Layer::choose_target(std::span<const L2Entry> entries) {
    std::uint64_t count = 1;
    if (has_own(entries.front())) {
        const std::uint64_t first = entries.front().offset;
        while (count < entries.size() && has_own(entries[count]) &&
               entries[count].offset == first + (count << header().cluster_bits)) {
            ++count;
        }
        co_return Target{.offset = first, .clusters = count};
    }
    while (count < entries.size() && !has_own(entries[count])) {
        ++count;
    }
    Result<ClusterRun> run = co_await refcounts_->allocate(count);
    CO_TRY(run);
    co_return Target{.offset = run->offset, .clusters = run->clusters, .allocated = true};
}

Layer::Span Layer::span_of(std::uint64_t offset, std::uint64_t size, std::span<const L2Entry> entries,
                           const Target& target) const {
    const std::uint64_t cluster = offset >> header().cluster_bits;
    const std::uint64_t end = std::min(offset + size, (cluster + target.clusters) << header().cluster_bits);
    const std::uint64_t part = cluster_size() / kSubclusters;
    Span span{.begin = offset, .end = end, .fill_begin = offset, .fill_end = end};
    const L2Entry& first = entries.front();
    if (target.allocated || !has(first, offset % cluster_size() / part)) {
        span.fill_begin = align_down(offset, must_move(first) ? cluster_size() : unit());
    }
    const L2Entry& last = entries.back();
    if (target.allocated || !has(last, (end - 1) % cluster_size() / part)) {
        span.fill_end = align_up(end, must_move(last) ? cluster_size() : unit());
    }
    return span;
}

// `host` is where the byte at span.fill_begin goes.
Task<Status> Layer::write_span(Span span, std::uint64_t host, std::span<const iovec> parts) {
    std::vector<std::byte> before(span.begin - span.fill_begin);
    std::vector<std::byte> after(span.fill_end - span.end);
    TaskGroup fills(2);
    if (!before.empty()) {
        co_await fills.add(read_fill(span.fill_begin, before));
    }
    if (!after.empty()) {
        co_await fills.add(read_fill(span.end, after));
    }
    Status filled = co_await fills.wait();
    CO_TRY(filled);
    Parts all;
    all.reserve(parts.size() + 2);
    if (!before.empty()) {
        all.push_back({before.data(), before.size()});
    }
    for (const iovec& part : parts) {
        all.push_back(part);
    }
    if (!after.empty()) {
        all.push_back({after.data(), after.size()});
    }
    co_return co_await file_->write(host, std::span<const iovec>(all));
}

// What is behind the end of the disk becomes zeros.
Task<Status> Layer::read_fill(std::uint64_t offset, std::span<std::byte> bytes) {
    const std::uint64_t there = offset < size_ ? std::min<std::uint64_t>(bytes.size(), size_ - offset) : 0;
    std::ranges::fill(bytes.subspan(there), std::byte{0});
    if (there == 0) {
        co_return {};
    }
    const Parts parts{{bytes.data(), there}};
    co_return co_await read_range(offset, there, parts);
}

// Returns the parts of a cluster that a range of the disk touches. Without subclusters it is all.
std::uint32_t Layer::mask_of(std::uint64_t cluster, std::uint64_t begin, std::uint64_t end) const {
    if (!header().extended_l2()) {
        return ~std::uint32_t{0};
    }
    const std::uint64_t start = cluster << header().cluster_bits;
    const std::uint64_t first = (std::max(begin, start) - start) / unit();
    const std::uint64_t stop = (std::min(end - start, cluster_size()) + unit() - 1) / unit();
    const std::uint64_t below_stop = (std::uint64_t{1} << stop) - 1;
    return static_cast<std::uint32_t>(below_stop & ~((std::uint64_t{1} << first) - 1));
}

// Changes entries, and releases the clusters that they had.
Task<> Layer::replace_entries(TableCache::Ref& piece, std::uint64_t cluster, std::span<const L2Entry> from,
                              std::span<const L2Entry> to) {
    if (std::ranges::equal(from, to)) {
        co_return;
    }
    co_await mapping_->set(piece, cluster, to);
    for (std::size_t i = 0; i < from.size(); ++i) {
        if (from[i].offset != to[i].offset) {
            release_clusters(from[i]);
        }
    }
}

void Layer::release_clusters(const L2Entry& entry) {
    if (entry.kind == L2Entry::Kind::unallocated) {
        return;
    }
    const std::uint64_t bytes = entry.kind == L2Entry::Kind::compressed ? entry.compressed_size : cluster_size();
    const std::uint64_t first = align_down(entry.offset, cluster_size());
    const std::uint64_t end = align_up(entry.offset + bytes, cluster_size());
    refcounts_->release(ClusterRun{.offset = first, .clusters = (end - first) >> header().cluster_bits});
}

}  // namespace snapvm::disk::qcow2
