// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/io/file_calls.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <span>
#include <utility>

#include "devices/disk/io/parts.h"
#include "vmm/base/align.h"

namespace snapvm::disk {
namespace {

// The part of a request that goes through a bounce buffer at a time. A guest can make every request
// in flight need one, so this bounds the memory.
constexpr std::uint64_t kBounceBytes = 256ULL << 10;
// io_uring counts the bytes of one buffer in 32 bits.
constexpr std::uint64_t kCallBytes = 1ULL << 30;

// A system call takes a limited number of buffers. The request goes on after them.
void limit_parts(io::Request& call) {
    if (call.buffers.size() <= IOV_MAX) {
        return;
    }
    call.buffers.resize(IOV_MAX);
    call.size = 0;
    for (const iovec& part : call.buffers) {
        call.size += part.iov_len;
    }
}

}  // namespace

FileCalls::FileCalls(const DiskFile& file, io::Engine& engine, AtEnd at_end, Ended ended)
    : file_(file), engine_(engine), at_end_(at_end), ended_(std::move(ended)) {
    if (!file_.device) {
        lacking_[static_cast<std::size_t>(Way::discard)] = true;
    }
}

void FileCalls::begin(Call& call, DiskRequest& request) {
    call.file_ = this;
    call.request_ = &request;
    call.done_ = 0;
    call.buffered_ = call.bounced_ = call.flushing_ = false;
    call.way_ = next_way(request, Way::nothing);
    begin(call);
}

void FileCalls::begin(Call& call) {
    switch (call.request_->kind) {
        case DiskRequest::Kind::read:
        case DiskRequest::Kind::write: begin_transfer(call); break;
        case DiskRequest::Kind::discard:
        case DiskRequest::Kind::write_zeroes: begin_clearing(call); break;
        case DiskRequest::Kind::flush:
            call.kind = io::Request::Kind::flush;
            call.fd = file_.fd.get();
            send(call);
            break;
    }
}

bool FileCalls::offset_aligned(const Call& call) const {
    return (call.offset | call.size) % file_.alignment.offset == 0;
}

bool FileCalls::buffers_aligned(const Call& call) const {
    return call.buffers.size() <= IOV_MAX && std::ranges::all_of(call.buffers, [this](const iovec& part) {
               return reinterpret_cast<std::uintptr_t>(part.iov_base) % file_.alignment.memory == 0 &&
                      part.iov_len % file_.alignment.offset == 0;
           });
}

// Returns false if there is no memory for the buffer.
bool FileCalls::make_bounce(Call& call) const {
    call.size = std::min(call.size, kBounceBytes);
    const std::uint64_t alignment = std::max(file_.alignment.memory, 4096U);
    call.bounce_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, align_up(call.size, alignment))));
    if (!call.bounce_) {
        return false;
    }
    if (call.kind == io::Request::Kind::write) {
        std::byte* to = call.bounce_.get();
        for_each_part(call.request_->buffers, call.done_, call.size, [&](const iovec& part) {
            std::memcpy(to, part.iov_base, part.iov_len);
            to += part.iov_len;
        });
    }
    call.buffers.assign(1, {call.bounce_.get(), call.size});
    call.bounced_ = true;
    return true;
}

void FileCalls::begin_transfer(Call& call) {
    const DiskRequest& request = *call.request_;
    call.kind = request.kind == DiskRequest::Kind::read ? io::Request::Kind::read : io::Request::Kind::write;
    call.flags = call.kind == io::Request::Kind::write && request.durable ? RWF_DSYNC : 0;
    call.offset = request.offset + call.done_;
    call.size = std::min(request.size - call.done_, kCallBytes);
    call.bounced_ = false;
    call.buffers.clear();
    for_each_part(request.buffers, call.done_, call.size, [&](const iovec& part) { call.buffers.push_back(part); });
    // Unaligned buffers are bounced for O_DIRECT and not written through the page cache. That would
    // write whole pages, while a direct write of another sector in the same page may be in flight.
    // An unaligned offset or size must go through the page cache. That is safe for whole sectors,
    // because direct calls on such a file are of whole pages, and none of them shares a page with
    // it. For parts of sectors see DiskIo::use_page_cache().
    const bool direct = file_.direct_fd.valid() && !call.buffered_ && offset_aligned(call) &&
                        (buffers_aligned(call) || make_bounce(call));
    limit_parts(call);
    call.fd = direct ? file_.direct_fd.get() : file_.fd.get();
    wrote_through_cache_ = wrote_through_cache_ || (!direct && call.kind == io::Request::Kind::write);
    send(call);
}

// Whether a write would extend a file that was truncated while the guest has it. The file may still
// shrink between this check and the call: the kernel has no write that does not extend. Devices
// cannot grow.
bool FileCalls::behind_the_end(const Call& call) const {
    if (file_.device || at_end_ == AtEnd::extends ||
        (call.kind != io::Request::Kind::write && call.kind != io::Request::Kind::allocate)) {
        return false;
    }
    struct stat info{};
    return ::fstat(file_.fd.get(), &info) != 0 || static_cast<std::uint64_t>(info.st_size) < call.offset + call.size;
}

void FileCalls::send(Call& call) {
    if (behind_the_end(call)) {
        end(call, EIO);
        return;
    }
    engine_.add(call);
}

void FileCalls::advance(const io::Completion& completion) {
    Call& call = static_cast<Call&>(*completion.request);
    call.file_->advance(call, completion.result);
}

void FileCalls::advance(Call& call, std::int64_t result) {
    if (result == -EINTR || result == -EAGAIN) {
        call.flushing_ ? send(call) : begin(call);
    } else if (call.flushing_ || call.request_->kind == DiskRequest::Kind::flush) {
        end_flush(call, static_cast<int>(-result));
    } else if (result == -EINVAL && !call.buffered_ && file_.direct_fd.valid() && call.fd == file_.direct_fd.get()) {
        call.buffered_ = true;  // the file requires more alignment than it reports
        begin(call);
    } else if (call.kind == io::Request::Kind::read || call.kind == io::Request::Kind::write) {
        advance_transfer(call, result);
    } else {
        advance_clearing(call, result);
    }
}

void FileCalls::advance_transfer(Call& call, std::int64_t result) {
    const DiskRequest& request = *call.request_;
    if (result <= 0) {
        end_transfer(call, result);
        return;
    }
    if (call.bounced_ && call.kind == io::Request::Kind::read) {
        const std::byte* from = call.bounce_.get();
        for_each_part(request.buffers, call.done_, static_cast<std::uint64_t>(result), [&](const iovec& part) {
            std::memcpy(part.iov_base, from, part.iov_len);
            from += part.iov_len;
        });
    }
    call.done_ += static_cast<std::uint64_t>(result);
    if (call.done_ < request.size) {
        begin(call);
    } else if (request.kind == DiskRequest::Kind::write_zeroes) {
        advance_clearing(call, 0);
    } else {
        end(call, 0);
    }
}

// Ends a transfer that failed, or met the end of the file, which is before that of the disk if the
// file was truncated while the guest has it.
void FileCalls::end_transfer(Call& call, std::int64_t result) {
    const DiskRequest& request = *call.request_;
    if (result < 0) {
        end(call, static_cast<int>(-result));
    } else if (call.kind == io::Request::Kind::write) {
        end(call, ENOSPC);
    } else if (at_end_ == AtEnd::fails) {
        end(call, EIO);
    } else {
        for_each_part(request.buffers, call.done_, request.size - call.done_,
                      [](const iovec& part) { std::memset(part.iov_base, 0, part.iov_len); });
        end(call, 0);
    }
}

// The kernel tells once that it could not write pages of its cache, and then takes them for written
// (fsync(2)). So a later flush that succeeds says nothing.
void FileCalls::end_flush(Call& call, int error) {
    if (error != 0 && flush_error_ == 0 && wrote_through_cache_) {
        flush_error_ = error;
    }
    end(call, flush_error_ != 0 ? flush_error_ : error);
}

void FileCalls::end(Call& call, int error) {
    call.bounce_.reset();
    ended_(call, error);
}

}  // namespace snapvm::disk
