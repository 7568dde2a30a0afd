// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/raw.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

// The part of a request that goes through a bounce buffer at a time. A guest can make every request
// in flight need one, so this bounds the memory.
constexpr std::uint64_t kBounceBytes = 256ULL << 10;

// Calls visit(iovec) for the parts of the buffers that hold bytes [offset, offset + size).
template <class Visit>
void for_each_part(std::span<const iovec> buffers, std::uint64_t offset, std::uint64_t size, Visit visit) {
    for (const iovec& buffer : buffers) {
        if (size == 0) {
            return;
        }
        if (offset >= buffer.iov_len) {
            offset -= buffer.iov_len;
            continue;
        }
        const std::uint64_t part = std::min<std::uint64_t>(buffer.iov_len - offset, size);
        visit(iovec{static_cast<std::byte*>(buffer.iov_base) + offset, part});
        offset = 0;
        size -= part;
    }
}

}  // namespace

Result<std::unique_ptr<Disk>> open_disk(const std::string& id, const std::string& path, DiskOptions options) {
    DiskFile file = TRY(DiskFile::open(id, path, options));
    return std::make_unique<RawDisk>(std::move(file), std::move(options));
}

RawDisk::RawDisk(DiskFile file, DiskOptions options) : file_(std::move(file)), options_(std::move(options)) {
    if (!file_.device) {
        lacking_[static_cast<std::size_t>(Way::discard)] = true;
    }
}

RawDisk::~RawDisk() = default;

std::uint32_t RawDisk::block_size() const { return std::clamp<std::uint32_t>(file_.block_size, 512, 4096); }

Status RawDisk::start() {
    event_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_.valid()) {
        return fail(Error::system("eventfd", file_.name, errno, "raise the limit of open files (ulimit -n)"));
    }
    ops_.resize(kMaxInFlight);
    for (Op& op : ops_) {
        free_.push_back(&op);
    }
    engine_ =
        TRY(io::make_engine(options_.engine, {.depth = kMaxInFlight, .event = event_.get(), .hook = options_.hook}));
    return {};
}

void RawDisk::add(DiskRequest& request) {
    Op& op = *free_.back();
    free_.pop_back();
    op.request = &request;
    op.done = 0;
    op.buffered = op.bounced = op.flushing = false;
    op.way = next_way(request, Way::nothing);
    begin(op);
}

void RawDisk::submit() { engine_->submit(); }

void RawDisk::reap(const Ended& ended) {
    eventfd_t count = 0;
    (void)::eventfd_read(event_.get(), &count);
    reaping_ = true;
    for (const io::Completion& one : engine_->reap()) {
        advance(static_cast<Op&>(*one.request), one.result);
    }
    submit();
    std::vector<std::pair<Op*, int>> over;
    over.swap(ended_);
    reaping_ = false;
    for (const auto& [op, error] : over) {
        DiskRequest& request = *op->request;
        free_.push_back(op);  // free before it is reported, because `ended` may add a request
        ended(request, error);
    }
}

void RawDisk::begin(Op& op) {
    switch (op.request->kind) {
        case DiskRequest::Kind::read:
        case DiskRequest::Kind::write: begin_transfer(op); break;
        case DiskRequest::Kind::discard:
        case DiskRequest::Kind::write_zeroes: begin_clearing(op); break;
        case DiskRequest::Kind::flush:
            op.kind = io::Request::Kind::flush;
            op.fd = file_.fd.get();
            send(op);
            break;
    }
}

bool RawDisk::offset_aligned(const Op& op) const { return (op.offset | op.size) % file_.alignment.offset == 0; }

bool RawDisk::buffers_aligned(const Op& op) const {
    return std::ranges::all_of(op.buffers, [this](const iovec& part) {
        return reinterpret_cast<std::uintptr_t>(part.iov_base) % file_.alignment.memory == 0 &&
               part.iov_len % file_.alignment.offset == 0;
    });
}

// Returns false if there is no memory for the buffer.
bool RawDisk::make_bounce(Op& op) {
    op.size = std::min(op.size, kBounceBytes);
    op.bounce.reset(static_cast<std::byte*>(std::aligned_alloc(65536, kBounceBytes)));
    if (!op.bounce) {
        return false;
    }
    if (op.kind == io::Request::Kind::write) {
        std::byte* to = op.bounce.get();
        for_each_part(op.request->buffers, op.done, op.size, [&](const iovec& part) {
            std::memcpy(to, part.iov_base, part.iov_len);
            to += part.iov_len;
        });
    }
    op.buffers.assign(1, {op.bounce.get(), op.size});
    op.bounced = true;
    return true;
}

void RawDisk::begin_transfer(Op& op) {
    const DiskRequest& request = *op.request;
    op.kind = request.kind == DiskRequest::Kind::read ? io::Request::Kind::read : io::Request::Kind::write;
    op.flags = op.kind == io::Request::Kind::write && request.durable ? RWF_DSYNC : 0;
    op.offset = request.offset + op.done;
    op.size = request.size - op.done;
    op.bounced = false;
    op.buffers.clear();
    for_each_part(request.buffers, op.done, op.size, [&](const iovec& part) { op.buffers.push_back(part); });
    // Unaligned buffers are bounced for O_DIRECT and not written through the page cache. That would
    // write whole pages, while a direct write of another sector in the same page may be in flight.
    // An unaligned offset or size must go through the page cache. That is safe, because direct
    // calls on such a file are of whole pages, and none of them shares a page with it.
    const bool direct =
        file_.direct_fd.valid() && !op.buffered && offset_aligned(op) && (buffers_aligned(op) || make_bounce(op));
    op.fd = direct ? file_.direct_fd.get() : file_.fd.get();
    send(op);
}

// Whether a write would extend a file that was truncated while the guest has it. The file may still
// shrink between this check and the call: the kernel has no write that does not extend. Devices
// cannot grow.
bool RawDisk::behind_the_end(const Op& op) const {
    if (file_.device || (op.kind != io::Request::Kind::write && op.kind != io::Request::Kind::allocate)) {
        return false;
    }
    struct stat info{};
    return ::fstat(file_.fd.get(), &info) != 0 || static_cast<std::uint64_t>(info.st_size) < op.offset + op.size;
}

void RawDisk::send(Op& op) {
    if (behind_the_end(op)) {
        end(op, EIO);
        return;
    }
    engine_->add(op);
}

void RawDisk::advance(Op& op, std::int64_t result) {
    if (result == -EINTR || result == -EAGAIN) {
        op.flushing ? send(op) : begin(op);
    } else if (op.flushing || op.request->kind == DiskRequest::Kind::flush) {
        end(op, static_cast<int>(-result));
    } else if (result == -EINVAL && !op.buffered && file_.direct_fd.valid() && op.fd == file_.direct_fd.get()) {
        op.buffered = true;  // the file requires more alignment than it reports
        begin(op);
    } else if (op.kind == io::Request::Kind::read || op.kind == io::Request::Kind::write) {
        advance_transfer(op, result);
    } else {
        advance_clearing(op, result);
    }
}

void RawDisk::advance_transfer(Op& op, std::int64_t result) {
    const DiskRequest& request = *op.request;
    if (result <= 0) {
        // The file ends here: it was truncated while the guest has it.
        end(op, result < 0 ? static_cast<int>(-result) : op.kind == io::Request::Kind::read ? EIO : ENOSPC);
        return;
    }
    if (op.bounced && op.kind == io::Request::Kind::read) {
        const std::byte* from = op.bounce.get();
        for_each_part(request.buffers, op.done, static_cast<std::uint64_t>(result), [&](const iovec& part) {
            std::memcpy(part.iov_base, from, part.iov_len);
            from += part.iov_len;
        });
    }
    op.done += static_cast<std::uint64_t>(result);
    if (op.done < request.size) {
        begin(op);
    } else if (request.kind == DiskRequest::Kind::write_zeroes) {
        advance_clearing(op, 0);
    } else {
        end(op, 0);
    }
}

void RawDisk::end(Op& op, int error) {
    op.bounce.reset();
    ended_.emplace_back(&op, error);
    if (!reaping_) {
        (void)::eventfd_write(event_.get(), 1);
    }
}

}  // namespace snapvm
