// SPDX-License-Identifier: Apache-2.0
// Saves, reverts to and removes checkpoints. Each change has one moment at which it happens: the
// write of the header. Before that, all that the new header refers to is on the disk and counted;
// after it, what only the old one referred to loses its counts.
#include "devices/disk/qcow2/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "devices/disk/qcow2/checkpointer.h"
#include "vmm/base/align.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::size_t kMaxName = 255;  // QEMU cuts longer ones
constexpr std::size_t kMaxCheckpoints = 65536;
constexpr std::size_t kIcountBytes = 8;  // of QEMU's record and replay; all ones say that there is none

Checkpoint checkpoint_of(const Snapshot& one) {
    return {.id = one.id,
            .name = one.name,
            .seconds = one.seconds,
            .nanoseconds = one.nanoseconds,
            .guest_nanoseconds = one.guest_nanoseconds,
            .vm_state_size = one.vm_state_size,
            .disk_size = one.disk_size};
}

// Returns 0 for what is no decimal of 32 bits.
std::uint64_t number_of(const std::string& id) {
    std::uint32_t number = 0;
    const auto parsed = std::from_chars(id.data(), id.data() + id.size(), number);
    return parsed.ec == std::errc() && parsed.ptr == id.data() + id.size() ? number : 0;
}

// Returns a decimal that is no id yet, and larger than those that are there.
std::string next_id(std::span<const Snapshot> snapshots) {
    std::uint64_t largest = 0;
    for (const Snapshot& one : snapshots) {
        largest = std::max(largest, number_of(one.id));
    }
    std::string id;
    do {
        id = std::to_string(++largest);
    } while (std::ranges::find(snapshots, id, &Snapshot::id) != snapshots.end());
    return id;
}

// Returns the index of the checkpoint with this id, or else name; the number of all if there is
// none.
std::size_t find(std::span<const Snapshot> snapshots, const std::string& id_or_name) {
    auto found = std::ranges::find(snapshots, id_or_name, &Snapshot::id);
    if (found == snapshots.end()) {
        found = std::ranges::find(snapshots, id_or_name, &Snapshot::name);
    }
    return static_cast<std::size_t>(found - snapshots.begin());
}

std::unexpected<Error> refuse_unknown(const DiskIo& file) {
    return fail(ErrorKind::usage, file.name() + ": the image has no such checkpoint", "list them");
}

Status check_new(const DiskIo& file, const NewCheckpoint& what, std::span<const Snapshot> snapshots) {
    if (what.name.empty() || what.name.size() > kMaxName || what.name.contains('\0')) {
        return fail(ErrorKind::usage, file.name() + ": the name of a checkpoint has 1 to 255 bytes, none of them zero");
    }
    if (find(snapshots, what.name) < snapshots.size()) {
        return fail(ErrorKind::usage, file.name() + ": the image has a checkpoint of this name or id",
                    "choose another name, or remove that one");
    }
    if (snapshots.size() >= kMaxCheckpoints) {
        return fail(ErrorKind::usage, file.name() + ": the image has 65536 checkpoints", "remove some");
    }
    return {};
}

Result<Layer*> layer_of(Image& image) {
    if (auto* const layer = dynamic_cast<Layer*>(&image)) {
        return layer;
    }
    return fail(ErrorKind::unsupported, image.name() + ": only a qcow2 image has checkpoints");
}

}  // namespace

std::uint64_t Checkpointer::l1_entries(std::uint64_t disk_size) const {
    return disk_size == 0 ? 0 : (disk_size - 1) / header().l2_reach() + 1;
}

// Returns the clusters in which these bytes are.
ClusterRun Checkpointer::run_of(std::uint64_t offset, std::uint64_t bytes) const {
    const std::uint64_t first = align_down(offset, cluster_size());
    return {.offset = first, .clusters = (align_up(offset + bytes, cluster_size()) - first) >> cluster_bits_};
}

// --- Begin and end. ---

// Writes all that is changed in memory, so that the file has the whole image.
Task<Status> Checkpointer::settle() {
    Refcounts& refcounts = *layer_.refcounts_;
    Status status = co_await layer_.commit();
    if (status && refcounts.has_released()) {
        status = co_await layer_.commit();
    }
    if (status && refcounts.dirty()) {
        status = co_await refcounts.write_raised();
    }
    co_return status;
}

Task<Status> Checkpointer::write_header() {
    Status written = co_await store_.write();
    CO_TRY(written);
    co_return co_await file_.flush();
}

Task<Status> Checkpointer::begin() {
    if (layer_.calls_.oldest() != layer_.calls_.next() || layer_.committing_) {
        co_return fail(ErrorKind::usage, file_.name() + ": the disk is in use while a checkpoint is to be changed");
    }
    Status writable = co_await layer_.begin_writing();
    CO_TRY(writable);
    Status settled = co_await settle();
    CO_TRY(settled);
    // One that is set already says that an earlier change could not end. Only a repair clears it.
    if (header().version < 3 || (header().incompatible & kDirty) != 0) {
        co_return Status{};
    }
    store_.change().incompatible |= kDirty;
    Status status = co_await write_header();
    if (!status) {
        store_.change().incompatible &= ~kDirty;
        if (Status taken_back = co_await write_header(); !taken_back) {
            store_.change().incompatible |= kDirty;  // the file may have it
        }
        co_return status;
    }
    marked_ = true;
    co_return Status{};
}

// A failure is not the caller's: the change has happened, or was taken back. The dirty bit stays
// then, and the image is repaired when it is opened.
Task<> Checkpointer::end() {
    Status counted = co_await layer_.refcounts_->write_raised();
    if (!counted || !right_ || unknown_ || !marked_) {
        co_return;
    }
    store_.change().incompatible &= ~kDirty;
    Status written = co_await write_header();
    if (!written) {
        store_.change().incompatible |= kDirty;
    }
}

// Makes all before durable, and then the new header. If that fails, the old one is in the file
// again, or unknown_ is true: then all that either refers to must stay.
Task<Status> Checkpointer::switch_to(Header next) {
    Status status = co_await file_.flush();
    CO_TRY(status);
    std::swap(store_.change(), next);
    status = co_await write_header();
    if (!status) {
        std::swap(store_.change(), next);
        Status back = co_await write_header();
        unknown_ = !back;
    }
    co_return status;
}

// --- Save. ---

Task<Result<Snapshot>> Checkpointer::save(const NewCheckpoint& what) {
    Result<SnapshotTable> table = co_await read_table();
    CO_TRY(table);
    Status possible = check_new(file_, what, table->snapshots);
    CO_TRY(possible);
    if (header().refcount_bits() == 1) {
        co_return fail(ErrorKind::unsupported,
                       file_.name() + ": the image's reference counts have 1 bit, which is too small for checkpoints",
                       "convert it to an image with larger ones");
    }
    Status begun = co_await begin();
    CO_TRY(begun);
    Snapshot added;
    added.id = next_id(table->snapshots);
    added.name = what.name;
    added.seconds = what.seconds;
    added.nanoseconds = what.nanoseconds;
    added.guest_nanoseconds = what.guest_nanoseconds;
    added.disk_size = header().size;
    added.l1_entries = static_cast<std::uint32_t>(l1_entries(header().size));
    added.more_data.assign(kIcountBytes, std::byte{0xFF});
    Status saved = co_await save_begun(*std::move(table), added);
    co_await end();
    CO_TRY(saved);
    co_return added;
}

Task<Status> Checkpointer::save_begun(SnapshotTable table, Snapshot& added) {
    Words words = layer_.mapping_->l1();
    words.resize(added.l1_entries);
    Bytes bytes(words.size() * 8);
    for (std::size_t i = 0; i < words.size(); ++i) {
        words[i] &= ~kCopied;
        store_be64(bytes, i * 8, words[i]);
    }
    const std::span<const std::byte> all = bytes;
    Result<ClusterRun> place = co_await write_new(all);
    CO_TRY(place);
    added.l1_offset = place->offset;
    const ClusterRun old_table = run_of(header().snapshots_offset, table.bytes);
    table.snapshots.push_back(added);
    Status named = co_await save_named(table.snapshots, old_table, words);
    if (!named && !unknown_) {
        co_await give_back(*place);
    }
    co_return named;
}

Task<Status> Checkpointer::save_named(std::span<const Snapshot> snapshots, ClusterRun old_table, const Words& words) {
    const Result<Bytes> table = encode_snapshots(snapshots);
    CO_TRY(table);
    const std::span<const std::byte> all = *table;
    Result<ClusterRun> place = co_await write_new(all);
    CO_TRY(place);
    Status status = co_await raise(words);
    if (status) {
        status = co_await set_l1_flags(words.size(), Flags::clear);
        if (status) {
            status = co_await set_flags(words, Flags::clear);
        }
        if (status) {
            Header next = header();
            next.snapshots = static_cast<std::uint32_t>(snapshots.size());
            next.snapshots_offset = place->offset;
            status = co_await switch_to(std::move(next));
        }
        if (!status && !unknown_) {
            co_await lower(words, kAllRuns);
            co_await free_unused();
        }
    }
    if (!unknown_) {
        co_await give_back(status ? old_table : *place);
    }
    co_return status;
}

// --- Revert. ---

Task<Status> Checkpointer::revert(const std::string& id_or_name, SizeChange size) {
    Result<SnapshotTable> table = co_await read_table();
    CO_TRY(table);
    const std::size_t index = find(table->snapshots, id_or_name);
    if (index == table->snapshots.size()) {
        co_return refuse_unknown(file_);
    }
    const Snapshot& snapshot = table->snapshots[index];
    if (snapshot.disk_size != header().size && size == SizeChange::refuse) {
        co_return fail(ErrorKind::usage,
                       file_.name() + ": the disk had another size at the checkpoint: " +
                           std::to_string(snapshot.disk_size) + " bytes",
                       "revert to it while no machine uses the disk");
    }
    Status begun = co_await begin();
    CO_TRY(begun);
    Status reverted = co_await revert_begun(snapshot);
    co_await end();
    co_return reverted;
}

Task<Status> Checkpointer::revert_begun(const Snapshot& snapshot) {
    Result<Words> words = co_await read_l1(snapshot, l1_entries(snapshot.disk_size));
    CO_TRY(words);
    const ClusterRun old_l1 = run_of(header().l1_offset, std::uint64_t{header().l1_entries} * 8);
    const Words old_words = layer_.mapping_->l1();
    Status status = co_await raise(*words);
    CO_TRY(status);
    status = co_await switch_l1(snapshot, *words);
    if (!status) {
        if (unknown_) {
            // What is written from now on might be lost with the L1 table that the header names.
            layer_.mapping_->refuse_writes();
            layer_.damage_noted_ = true;  // the header must stay as it is
            co_return status;
        }
        co_await lower(*words, kAllRuns);
        co_return status;
    }
    layer_.mapping_->replace_l1(*words, old_l1.offset);
    layer_.size_ = align_down(snapshot.disk_size, kSector);
    layer_.expanded_ = {};
    co_await lower(old_words, kAllRuns);
    co_await give_back(old_l1);
    co_await free_unused();
    co_return Status{};
}

// The flags of tables that the disk does not use need not be right. They must be before it does.
Task<Status> Checkpointer::switch_l1(const Snapshot& snapshot, const Words& words) {
    Status status = co_await set_flags(words, Flags::clear);
    CO_TRY(status);
    Bytes bytes(words.size() * 8);
    for (std::size_t i = 0; i < words.size(); ++i) {
        store_be64(bytes, i * 8, words[i]);
    }
    const std::span<const std::byte> all = bytes;
    Result<ClusterRun> place = co_await write_new(all);
    CO_TRY(place);
    status = co_await layer_.refcounts_->write_raised();
    if (status) {
        Header next = header();
        next.l1_offset = place->offset;
        next.l1_entries = static_cast<std::uint32_t>(words.size());
        next.size = snapshot.disk_size;
        status = co_await switch_to(std::move(next));
    }
    if (!status && !unknown_) {
        co_await give_back(*place);
    }
    co_return status;
}

// --- Remove. ---

Task<Status> Checkpointer::remove(const std::string& id_or_name) {
    Result<SnapshotTable> table = co_await read_table();
    CO_TRY(table);
    const std::size_t index = find(table->snapshots, id_or_name);
    if (index == table->snapshots.size()) {
        co_return refuse_unknown(file_);
    }
    Status begun = co_await begin();
    CO_TRY(begun);
    Status removed = co_await remove_begun(*std::move(table), index);
    co_await end();
    co_return removed;
}

Task<Status> Checkpointer::remove_begun(SnapshotTable table, std::size_t index) {
    const Snapshot removed = table.snapshots[index];
    Result<Words> words = co_await read_l1(removed, removed.l1_entries);
    CO_TRY(words);
    Status possible = co_await check_l2(*words);
    CO_TRY(possible);
    table.snapshots.erase(table.snapshots.begin() + static_cast<std::ptrdiff_t>(index));
    const Result<Bytes> encoded = encode_snapshots(table.snapshots);
    CO_TRY(encoded);
    const std::span<const std::byte> all = *encoded;
    Result<ClusterRun> place = co_await write_new(all);
    CO_TRY(place);
    Status status = co_await layer_.refcounts_->write_raised();
    const ClusterRun old_table = run_of(header().snapshots_offset, table.bytes);
    if (status) {
        Header next = header();
        --next.snapshots;
        next.snapshots_offset = place->offset;
        status = co_await switch_to(std::move(next));
    }
    if (!status) {
        if (!unknown_) {
            co_await give_back(*place);
        }
        co_return status;
    }
    co_await lower(*words, kAllRuns);
    co_await give_back(run_of(removed.l1_offset, words->size() * 8));
    co_await give_back(old_table);
    co_await free_unused();
    co_return Status{};
}

// --- The interface. ---

Task<Result<std::vector<Checkpoint>>> list_checkpoints(Image& image) {
    Result<Layer*> layer = layer_of(image);
    CO_TRY(layer);
    Checkpointer checkpointer(**layer);
    Result<SnapshotTable> table = co_await checkpointer.read_table();
    CO_TRY(table);
    std::vector<Checkpoint> checkpoints;
    for (const Snapshot& one : table->snapshots) {
        checkpoints.push_back(checkpoint_of(one));
    }
    co_return checkpoints;
}

Task<Result<Checkpoint>> save_checkpoint(Image& image, const NewCheckpoint& what) {
    Result<Layer*> layer = layer_of(image);
    CO_TRY(layer);
    Checkpointer checkpointer(**layer);
    Result<Snapshot> saved = co_await checkpointer.save(what);
    CO_TRY(saved);
    co_return checkpoint_of(*saved);
}

Task<Status> revert_to_checkpoint(Image& image, const std::string& id_or_name, SizeChange size) {
    Result<Layer*> layer = layer_of(image);
    CO_TRY(layer);
    Checkpointer checkpointer(**layer);
    co_return co_await checkpointer.revert(id_or_name, size);
}

Task<Status> remove_checkpoint(Image& image, const std::string& id_or_name) {
    Result<Layer*> layer = layer_of(image);
    CO_TRY(layer);
    Checkpointer checkpointer(**layer);
    co_return co_await checkpointer.remove(id_or_name);
}

}  // namespace snapvm::disk::qcow2
