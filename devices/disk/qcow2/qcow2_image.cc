// SPDX-License-Identifier: Apache-2.0
// Opens and closes a qcow2 image.
#include "devices/disk/qcow2/qcow2_image.h"

#include <algorithm>

#include "devices/disk/qcow2/check.h"
#include "devices/disk/qcow2/layer.h"
#include "vmm/base/align.h"
#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kFewestPieces = 16;

std::unexpected<Error> refuse(const DiskIo& file, const std::string& why, const std::string& advice) {
    return fail(ErrorKind::invalid, file.name() + ": " + why, advice);
}

Status check_header(const DiskIo& file, const Header& header, const Image* backing, const OpenOptions& options) {
    if (header.has_backing != (backing != nullptr || options.backing_follows)) {
        return refuse(file, header.has_backing ? "its backing image is missing" : "it has no backing image",
                      "open the chain that the image's header names");
    }
    if (options.read_only) {
        if ((header.incompatible & kDirty) != 0) {
            return refuse(file, "it was not closed, and cannot be repaired read-only", "run \"qemu-img check -r all\"");
        }
        return {};
    }
    if ((header.incompatible & kCorrupt) != 0) {
        return refuse(file, "it is marked as corrupt", "open it with readonly=on, or run \"qemu-img check -r all\"");
    }
    return {};
}

// A program that keeps no counts while it writes has not closed the image.
Task<Status> repair(DiskIo& file, Header& header) {
    HeaderStore store(header, file);
    Result<CheckReport> report = co_await check_image(file, store, /*repair=*/true);
    CO_TRY(report);
    if (report->errors != 0 || (store.get().incompatible & kDirty) != 0) {
        co_return refuse(file, "it was not closed, and its errors cannot be repaired", "restore it from a copy");
    }
    header = store.get();
    co_return {};
}

std::uint64_t pieces(const Header& header, std::uint64_t bytes) {
    return std::max(bytes / TableCache::piece_size_of(header.cluster_size()), kFewestPieces);
}

}  // namespace

Task<Result<std::unique_ptr<Image>>> open_image(std::unique_ptr<DiskIo> file, Header header,
                                                std::unique_ptr<Image> backing, OpenOptions options) {
    Status possible = check_header(*file, header, backing.get(), options);
    CO_TRY(possible);
    if ((header.incompatible & kDirty) != 0) {
        Status repaired = co_await repair(*file, header);
        CO_TRY(repaired);
    }
    auto layer = std::make_unique<Layer>(std::move(file), std::move(backing), options, std::move(header));
    Status loaded = co_await layer->load();
    CO_TRY(loaded);
    co_return std::unique_ptr<Image>(std::move(layer));
}

Layer::Layer(std::unique_ptr<DiskIo> file, std::unique_ptr<Image> backing, OpenOptions options, Header header)
    : file_(std::move(file)),
      backing_(std::move(backing)),
      options_(options),
      header_(std::move(header), *file_),
      size_(align_down(header_.get().size, kSector)) {
    if (unit() < kPageSize) {
        file_->use_page_cache();
    }
}

Task<Status> Layer::load() {
    if (!options_.read_only) {
        Result<std::unique_ptr<Refcounts>> counts =
            co_await Refcounts::open(*file_, header_, pieces(header(), options_.metadata_bytes / 4));
        if (!counts) {
            co_return fail(std::move(counts).error());
        }
        refcounts_ = *std::move(counts);
    }
    Result<std::unique_ptr<Mapping>> mapping =
        co_await Mapping::open(*file_, header_, refcounts_.get(), pieces(header(), options_.metadata_bytes / 4 * 3));
    if (!mapping) {
        co_return fail(std::move(mapping).error());
    }
    mapping_ = *std::move(mapping);
    co_return {};
}

std::uint64_t Layer::unit() const { return header().extended_l2() ? cluster_size() / kSubclusters : cluster_size(); }

bool Layer::is_within(std::uint64_t offset, std::uint64_t size) const {
    return size <= size_ && offset <= size_ - size && (offset | size) % kSector == 0;
}

Status Layer::check_range(std::uint64_t offset, std::uint64_t size) const {
    if (!is_within(offset, size)) {
        return fail(ErrorKind::usage, name() + ": a range is not within the disk");
    }
    return {};
}

Task<Result<ExtentRange>> Layer::look(std::uint64_t offset, std::uint64_t size) {
    Status within = check_range(offset, size);
    CO_TRY(within);
    if (size == 0) {
        co_return fail(ErrorKind::usage, name() + ": a range is empty");
    }
    const CallTickets::Ticket ticket(calls_);
    Result<Run> run = co_await mapping_->look(offset, size);
    co_await note_damage();
    CO_TRY(run);
    ExtentRange range{.size = run->size, .compressed = run->kind == Run::Kind::compressed};
    switch (run->kind) {
        case Run::Kind::backing: range.extent = Extent::backing; break;
        case Run::Kind::zero: range.extent = Extent::zero; break;
        case Run::Kind::data: range.host_offset = run->host; [[fallthrough]];
        case Run::Kind::compressed: range.extent = Extent::data; break;
    }
    co_return range;
}

// Before the first write. What the features describe would be out of date afterwards.
Task<Status> Layer::begin_writing() {
    if (options_.read_only) {
        co_return fail(ErrorKind::usage, name() + ": the image is read-only");
    }
    if (mapping_->damaged()) {
        co_return fail(ErrorKind::invalid, name() + ": the image is corrupt, and takes no more writes",
                       "repair it with \"qemu-img check -r all\"");
    }
    if (writing_) {
        co_return {};
    }
    auto alone = co_await beginning_.lock();
    if (!writing_ && header().autoclear != 0) {
        const std::uint64_t before = std::exchange(header_.change().autoclear, 0);
        Status status = co_await header_.write();
        if (status) {
            status = co_await file_->flush();
        }
        if (!status) {
            header_.change().autoclear = before;
            co_return status;
        }
    }
    writing_ = true;
    co_return {};
}

// Marks the image as corrupt, once. The call that found it fails anyway, so a failure to mark it
// is not reported.
Task<> Layer::note_damage() {
    if (!mapping_->damaged() || damage_noted_) {
        co_return;
    }
    damage_noted_ = true;
    if (!options_.read_only && header().version >= 3) {
        header_.change().incompatible |= kCorrupt;
        Status ignored = co_await header_.write();
        (void)ignored;
    }
}

// Makes all durable, and gives back what the image has no use for.
Task<Status> Layer::finish() {
    if (options_.read_only) {
        co_return {};
    }
    Status status = co_await commit();
    CO_TRY(status);
    if (refcounts_->has_released()) {
        // The commit has moved the refcount table, and released the old one.
        status = co_await commit();
        CO_TRY(status);
    }
    // The counts that the commit has lowered are not written yet.
    if (refcounts_->dirty()) {
        status = co_await refcounts_->write_raised();
        CO_TRY(status);
    }
    if (!file_->device() && file_->size() > refcounts_->end()) {
        status = file_->truncate(refcounts_->end());
        CO_TRY(status);
    }
    co_return co_await file_->flush();
}

Task<Status> Layer::freeze(std::string path) {
    // As a backing image it could not be repaired.
    if (mapping_->damaged() || (header().incompatible & (kDirty | kCorrupt)) != 0) {
        co_return fail(ErrorKind::invalid, name() + " has errors, and nothing can continue it",
                       "stop the machine, and repair the image: snapvm disk check --repair");
    }
    Status finished = co_await finish();
    CO_TRY(finished);
    options_.read_only = true;
    file_->moved_to(path);
    file_->share();
    co_return {};
}

std::shared_ptr<Image> Layer::exchange_backing(std::shared_ptr<Image> backing) {
    return std::exchange(backing_, std::move(backing));
}

Task<Status> Layer::close() {
    Status status = co_await finish();
    CO_TRY(status);
    if (backing_) {
        co_return co_await backing_->close();
    }
    co_return {};
}

}  // namespace snapvm::disk::qcow2
