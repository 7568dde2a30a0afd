// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/io/disk_io.h"

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

constexpr std::uint64_t kMaxOffset = std::numeric_limits<off_t>::max();

std::uint64_t bytes_of(std::span<const iovec> parts) {
    std::uint64_t bytes = 0;
    for (const iovec& part : parts) {
        bytes += part.iov_len;
    }
    return bytes;
}

const char* name_of(DiskRequest::Kind kind) {
    switch (kind) {
        case DiskRequest::Kind::read: return "read";
        case DiskRequest::Kind::write: return "write";
        case DiskRequest::Kind::flush: return "fdatasync";
        case DiskRequest::Kind::discard: return "discard";
        case DiskRequest::Kind::write_zeroes: return "zero";
    }
    return "";
}

}  // namespace

Result<std::unique_ptr<IoLoop>> IoLoop::make(io::EngineKind engine, io::FaultHook hook) {
    std::unique_ptr<IoLoop> loop(new IoLoop);
    loop->event_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!loop->event_.valid()) {
        return fail(Error::system("eventfd", "", errno, "raise the limit of open files (ulimit -n)"));
    }
    loop->engine_ = TRY(
        io::make_engine(engine, {.depth = Disk::kMaxInFlight, .event = loop->event_.get(), .hook = std::move(hook)}));
    return loop;
}

IoLoop::~IoLoop() = default;

void IoLoop::submit() { engine_->submit(); }

void IoLoop::reap() {
    eventfd_t count = 0;
    (void)::eventfd_read(event_.get(), &count);
    reaping_ = true;
    for (const io::Completion& one : engine_->reap()) {
        FileCalls::advance(one);
    }
    over_.swap(ended_);
    reaping_ = false;
    for (Call* call : over_) {
        call->task.resume();
    }
    over_.clear();
    submit();
}

Status IoLoop::wait() {
    if (ended_.empty()) {
        if (engine_->in_flight() == 0) {
            return fail(ErrorKind::invalid, "a task waits for something that no call ends");
        }
        TRY(engine_->wait());
    }
    reap();
    return {};
}

void IoLoop::wake() const { (void)::eventfd_write(event_.get(), 1); }

IoLoop::Call& IoLoop::take() {
    if (free_.empty()) {
        return pool_.emplace_back();
    }
    Call& call = *free_.back();
    free_.pop_back();
    return call;
}

// Tasks never go on within the call that they make, so that a series of calls that end at once
// needs no stack.
void IoLoop::end(Call& call, int error) {
    call.error = error;
    ended_.push_back(&call);
    if (!reaping_) {
        wake();
    }
}

/// What a task awaits while its call is under way. Gives the errno.
class DiskIo::Running {
public:
    Running(DiskIo& file, IoLoop::Call& call) : file_(file), call_(call) {}
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> task) {
        call_.task = task;
        file_.calls_.begin(call_, call_.work);
    }
    [[nodiscard]] int await_resume() {
        const int error = call_.error;
        file_.loop_.give_back(call_);
        return error;
    }

private:
    DiskIo& file_;
    IoLoop::Call& call_;
};

DiskIo::DiskIo(DiskFile file, IoLoop& loop)
    : file_(std::move(file)),
      loop_(loop),
      size_(file_.size),
      calls_(file_, *loop.engine_, FileCalls::AtEnd::extends,
             [&loop](FileCalls::Call& call, int error) { loop.end(static_cast<IoLoop::Call&>(call), error); }) {
    // The size of a disk is in sectors, and an image may end within one.
    struct stat info{};
    if (!file_.device && ::fstat(file_.fd.get(), &info) == 0) {
        size_ = static_cast<std::uint64_t>(info.st_size);
    }
}

DiskIo::~DiskIo() = default;

Task<Status> DiskIo::read(std::uint64_t offset, std::span<const iovec> parts) {
    return transfer(Kind::read, offset, parts);
}

Task<Status> DiskIo::write(std::uint64_t offset, std::span<const iovec> parts) {
    return transfer(Kind::write, offset, parts);
}

Task<Status> DiskIo::read(std::uint64_t offset, std::span<std::byte> bytes) {
    const iovec part{bytes.data(), bytes.size()};
    const std::span<const iovec> parts(&part, 1);
    co_return co_await transfer(Kind::read, offset, parts);
}

Task<Status> DiskIo::write(std::uint64_t offset, std::span<const std::byte> bytes) {
    const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};  // NOLINT: iovec is not const
    const std::span<const iovec> parts(&part, 1);
    co_return co_await transfer(Kind::write, offset, parts);
}

Task<Status> DiskIo::zero(std::uint64_t offset, std::uint64_t size, bool unmap) {
    return execute(Kind::write_zeroes, offset, size, unmap);
}

Task<Status> DiskIo::discard(std::uint64_t offset, std::uint64_t size) {
    return execute(Kind::discard, offset, size, true);
}

Task<Status> DiskIo::flush() {
    if (file_.transient) {
        co_return Status{};
    }
    IoLoop::Call& call = loop_.take();
    call.work.kind = Kind::flush;
    Running running(*this, call);
    const int error = co_await running;
    co_return outcome(Kind::flush, error);
}

Task<Status> DiskIo::transfer(Kind kind, std::uint64_t offset, std::span<const iovec> parts) {
    const std::uint64_t size = bytes_of(parts);
    Status reserved = reserve(kind, offset, size);
    if (!reserved || size == 0) {
        co_return reserved;
    }
    IoLoop::Call& call = loop_.take();
    call.work.kind = kind;
    call.work.offset = offset;
    call.work.size = size;
    call.work.buffers.assign(parts.begin(), parts.end());
    Running running(*this, call);
    const int error = co_await running;
    co_return outcome(kind, error);
}

Task<Status> DiskIo::execute(Kind kind, std::uint64_t offset, std::uint64_t size, bool unmap) {
    const std::uint64_t before = size_;
    Status reserved = reserve(kind, offset, size);
    if (!reserved || size == 0) {
        co_return reserved;
    }
    // A hole cannot be punched behind the end. No write under way reaches further than size_, so
    // this cuts nothing.
    if (size_ > before && ::ftruncate(file_.fd.get(), static_cast<off_t>(size_)) != 0) {
        const int error = errno;
        size_ = before;
        co_return outcome(kind, error);
    }
    IoLoop::Call& call = loop_.take();
    call.work.kind = kind;
    call.work.offset = offset;
    call.work.size = size;
    call.work.unmap = unmap;
    Running running(*this, call);
    const int error = co_await running;
    co_return outcome(kind, error);
}

// Checks a range, and takes note of what extends the file.
Status DiskIo::reserve(Kind kind, std::uint64_t offset, std::uint64_t size) {
    if (offset > kMaxOffset || size > kMaxOffset - offset) {
        return outcome(kind, EFBIG);
    }
    const std::uint64_t end = offset + size;
    if (kind == Kind::read || kind == Kind::discard || end <= size_) {
        return {};
    }
    if (end > limit()) {
        return outcome(kind, ENOSPC);
    }
    size_ = end;
    return {};
}

Status DiskIo::outcome(Kind kind, int error) const {
    return error == 0 ? Status{} : fail(Error::system(name_of(kind), file_.name, error));
}

Status DiskIo::truncate(std::uint64_t size) {
    if (file_.device) {
        return fail(ErrorKind::unsupported, file_.name + " is a device, and keeps its size");
    }
    if (size > kMaxOffset) {
        return fail(Error::system("ftruncate", file_.name, EFBIG));
    }
    if (::ftruncate(file_.fd.get(), static_cast<off_t>(size)) != 0) {
        return fail(Error::system("ftruncate", file_.name, errno));
    }
    size_ = size;
    return {};
}

DiskIo::Range DiskIo::hole_or_data(std::uint64_t offset, std::uint64_t size) const {
    if (file_.device || offset > kMaxOffset) {
        return {.hole = false, .size = size};
    }
    const auto at = static_cast<off_t>(offset);
    const off_t data = ::lseek(file_.fd.get(), at, SEEK_DATA);
    if (data < 0) {
        return {.hole = errno == ENXIO, .size = size};  // else the file system does not tell
    }
    if (data > at) {
        return {.hole = true, .size = std::min(size, static_cast<std::uint64_t>(data - at))};
    }
    const off_t hole = ::lseek(file_.fd.get(), at, SEEK_HOLE);
    return {.hole = false, .size = hole > at ? std::min(size, static_cast<std::uint64_t>(hole - at)) : size};
}

}  // namespace snapvm::disk
