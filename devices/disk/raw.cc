// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/raw.h"

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "devices/disk/image/image_disk.h"
#include "devices/disk/image/overlay.h"
#include "devices/disk/image/raw_image.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kSector = 512;

}  // namespace

RawDisk::RawDisk(DiskFile file, DiskOptions options) : file_(std::move(file)), options_(std::move(options)) {}

RawDisk::~RawDisk() = default;

std::uint32_t RawDisk::block_size() const { return std::clamp<std::uint32_t>(file_.block_size, 512, 4096); }

Status RawDisk::start() {
    event_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_.valid()) {
        return fail(Error::system("eventfd", file_.name, errno, "raise the limit of open files (ulimit -n)"));
    }
    engine_ =
        TRY(io::make_engine(options_.engine, {.depth = kMaxInFlight, .event = event_.get(), .hook = options_.hook}));
    calls_.emplace(file_, *engine_, disk::FileCalls::AtEnd::fails, [this](Call& call, int error) { end(call, error); });
    pool_.resize(kMaxInFlight);
    for (Call& call : pool_) {
        free_.push_back(&call);
    }
    return {};
}

Status RawDisk::resize(std::optional<std::uint64_t> bytes) {
    std::uint64_t size = 0;
    if (file_.device) {
        size = TRY(device_size(file_.fd.get(), file_.name)) / kSector * kSector;
        if (bytes && *bytes != size) {
            return fail(ErrorKind::usage, file_.name + " is a block device of " + size_text(size),
                        "change the size of the device first, or leave the size out");
        }
    } else if (bytes) {
        size = *bytes;
    }
    TRY(check_larger(*this, size));
    if (!file_.device && size > file_.size) {
        TRY(extend_file(size));
    }
    file_.size = size;
    return {};
}

// Another program may have made the file larger already.
Status RawDisk::extend_file(std::uint64_t bytes) {
    struct stat info{};
    if (options_.read_only) {
        return fail(ErrorKind::usage, file_.name + " is read-only, and keeps its size");
    }
    if (::fstat(file_.fd.get(), &info) != 0) {
        return fail(Error::system("fstat", file_.name, errno));
    }
    if (static_cast<std::uint64_t>(info.st_size) < bytes &&
        ::ftruncate(file_.fd.get(), static_cast<off_t>(bytes)) != 0) {
        return fail(Error::system("ftruncate", file_.name, errno));
    }
    if (::fsync(file_.fd.get()) != 0) {
        return fail(Error::system("fsync", file_.name, errno));
    }
    return {};
}

void RawDisk::add(DiskRequest& request) {
    Call& call = *free_.back();
    free_.pop_back();
    calls_->begin(call, request);
}

void RawDisk::submit() { engine_->submit(); }

void RawDisk::reap(const Ended& ended) {
    eventfd_t count = 0;
    (void)::eventfd_read(event_.get(), &count);
    reaping_ = true;
    for (const io::Completion& one : engine_->reap()) {
        disk::FileCalls::advance(one);
    }
    submit();
    std::vector<std::pair<Call*, int>> over;
    over.swap(ended_);
    reaping_ = false;
    for (const auto& [call, error] : over) {
        DiskRequest& request = call->request();
        free_.push_back(call);  // free before it is reported, because `ended` may add a request
        ended(request, error);
    }
}

void RawDisk::end(Call& call, int error) {
    ended_.emplace_back(&call, error);
    if (!reaping_) {
        (void)::eventfd_write(event_.get(), 1);
    }
}

Result<int> RawDisk::prepare_overlay(disk::Overlay overlay) {
    next_loop_ = TRY(disk::IoLoop::make(options_.engine, options_.hook));
    next_ = TRY(disk::open_overlay(std::move(overlay), nullptr, *next_loop_));
    return next_loop_->event();
}

void RawDisk::drop_overlay() {
    next_.reset();
    next_loop_.reset();
}

Result<std::unique_ptr<Disk>> RawDisk::freeze(const std::string& path) {
    TRY(disk::check_overlay(*next_, *this));
    if (::fdatasync(file_.fd.get()) != 0) {
        return fail(Error::system("fdatasync", file_.name, errno));
    }
    const std::uint32_t block = block_size();
    // From here on nothing may fail: this object has no file any more.
    file_.moved_to(path);
    (void)file_.share();
    auto layer = std::make_unique<disk::RawImage>(std::move(file_), *next_loop_, /*read_only=*/true);
    (void)next_->exchange_backing(std::move(layer));
    return std::make_unique<disk::ImageDisk>(std::move(next_loop_), std::move(next_), block);
}

}  // namespace snapvm
