// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image/image_disk.h"

#include <cerrno>
#include <cstdlib>

#include "devices/disk/image/chain.h"
#include "devices/disk/image/overlay.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

Task<Status> change(Image& image, const DiskRequest& request) {
    if (request.kind == DiskRequest::Kind::write) {
        return image.write(request.offset, request.size, request.buffers);
    }
    return image.write_zeroes(request.offset, request.size, request.unmap);
}

Task<Status> change_durably(Image& image, const DiskRequest& request) {
    Status changed = co_await change(image, request);
    CO_TRY(changed);
    co_return co_await image.flush();
}

Task<Status> perform(Image& image, const DiskRequest& request) {
    switch (request.kind) {
        case DiskRequest::Kind::read:
            return holder_of(image, request.offset, request.size).read(request.offset, request.size, request.buffers);
        case DiskRequest::Kind::write:
        case DiskRequest::Kind::write_zeroes:
            return request.durable ? change_durably(image, request) : change(image, request);
        case DiskRequest::Kind::flush: return image.flush();
        case DiskRequest::Kind::discard: return image.discard(request.offset, request.size);
    }
    std::abort();
}

int errno_of(const Status& status) {
    if (status) {
        return 0;
    }
    return status.error().code() != 0 ? status.error().code() : EIO;
}

}  // namespace

ImageDisk::ImageDisk(std::unique_ptr<IoLoop> loop, std::unique_ptr<Image> image, std::uint32_t block_size)
    : loop_(std::move(loop)), image_(std::move(image)), block_size_(block_size) {}

ImageDisk::~ImageDisk() {
    if (!wait_for_requests()) {
        // The kernel does not tell what has ended, so it may still use the image's memory.
        image_.release();  // NOLINT(bugprone-unused-return-value): it is given up
        return;
    }
    (void)loop_->run(image_->close());
}

Status ImageDisk::wait_for_requests() {
    while (in_flight_ > 0) {
        TRY(loop_->wait());
    }
    return {};
}

Status ImageDisk::resize(std::optional<std::uint64_t> bytes) {
    const std::uint64_t size = bytes.value_or(0);
    TRY(check_larger(*this, size));
    TRY(wait_for_requests());
    const Status resized = loop_->run(image_->resize(size));
    wake_for_ended();
    return resized;
}

// A wait of this thread's takes the event's count.
void ImageDisk::wake_for_ended() {
    if (!ended_.empty()) {
        loop_->wake();
    }
}

void ImageDisk::add(DiskRequest& request) {
    ++in_flight_;
    disk::start(perform(*image_, request), [this, &request](const Status& status) { end(request, status); });
}

Result<int> ImageDisk::prepare_overlay(Overlay overlay) {
    std::size_t images = 1;
    for (const Image* behind = image_->backing(); behind != nullptr; behind = behind->backing()) {
        ++images;
    }
    if (images >= kMaxImages) {
        return fail(ErrorKind::usage,
                    name() + " stands on " + std::to_string(images) + " images, and no more are opened",
                    "stop the machine, and merge some of them: qemu-img commit, or qemu-img convert");
    }
    auto opened = open_overlay(std::move(overlay), nullptr, *loop_);
    wake_for_ended();
    next_ = TRY(std::move(opened));
    return loop_->event();
}

Result<std::unique_ptr<Disk>> ImageDisk::freeze(const std::string& path) {
    TRY(check_overlay(*next_, *this));
    TRY(loop_->run(image_->freeze(path)));
    (void)next_->exchange_backing(std::move(image_));
    image_ = std::move(next_);
    return std::unique_ptr<Disk>();
}

void ImageDisk::reap(const Ended& ended) {
    reaping_ = true;
    loop_->reap();
    over_.swap(ended_);
    reaping_ = false;
    for (const auto& [request, error] : over_) {
        ended(*request, error);
    }
    over_.clear();
}

void ImageDisk::end(DiskRequest& request, const Status& status) {
    --in_flight_;
    ended_.emplace_back(&request, errno_of(status));
    if (!reaping_) {
        loop_->wake();
    }
}

}  // namespace snapvm::disk
