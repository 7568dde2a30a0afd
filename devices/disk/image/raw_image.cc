// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/raw_image.h"

#include <algorithm>
#include <utility>

namespace snapvm::disk {

RawImage::RawImage(DiskFile file, IoLoop& loop, bool read_only)
    : file_(std::move(file), loop), size_(file_.size() / 512 * 512), read_only_(read_only) {}

Task<Result<ExtentRange>> RawImage::look(std::uint64_t offset, std::uint64_t size) {
    const DiskIo::Range range = file_.hole_or_data(offset, size);
    ExtentRange found;
    found.extent = range.hole ? Extent::zero : Extent::data;
    found.size = range.size;
    found.host_offset = range.hole ? ExtentRange::kNowhere : offset;
    co_return found;
}

Task<Status> RawImage::read(std::uint64_t offset, std::uint64_t /*size*/, std::span<const iovec> parts) {
    return file_.read(offset, parts);
}

Task<Status> RawImage::write(std::uint64_t offset, std::uint64_t /*size*/, std::span<const iovec> parts) {
    return file_.write(offset, parts);
}

Task<Status> RawImage::write_zeroes(std::uint64_t offset, std::uint64_t size, bool unmap) {
    return file_.zero(offset, size, unmap);
}

Task<Status> RawImage::discard(std::uint64_t offset, std::uint64_t size) { return file_.discard(offset, size); }

// A file that becomes larger reads as zeros there.
Task<Status> RawImage::resize(std::uint64_t size) {
    Status possible = check_new_size(*this, size);
    CO_TRY(possible);
    Status changed = file_.truncate(size);
    CO_TRY(changed);
    size_ = size;
    co_return co_await file_.flush();
}

// Nothing is absent.
Task<Status> RawImage::fill_absent(std::uint64_t /*offset*/, std::uint64_t /*size*/, std::span<const iovec> /*parts*/) {
    co_return Status{};
}

Task<Status> RawImage::zero_absent(std::uint64_t /*offset*/, std::uint64_t /*size*/) { co_return Status{}; }

Task<Status> RawImage::rebase(std::string /*file*/, std::string /*format*/) {
    co_return fail(ErrorKind::usage, name() + ": a raw file has no backing image");
}

Task<Status> RawImage::flush() { return file_.flush(); }

Task<Status> RawImage::close() {
    if (read_only_) {
        co_return Status{};
    }
    co_return co_await file_.flush();
}

Task<Status> RawImage::freeze(std::string path) {
    Status flushed = co_await close();
    CO_TRY(flushed);
    read_only_ = true;
    file_.moved_to(path);
    file_.share();
    co_return {};
}

}  // namespace snapvm::disk
