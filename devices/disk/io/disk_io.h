// SPDX-License-Identifier: Apache-2.0
// The files behind one disk: calls on them for coroutines, through one I/O engine.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/disk/disk_file.h"
#include "devices/disk/io/file_calls.h"
#include "devices/disk/io/task.h"
#include "vmm/base/fd.h"
#include "vmm/io/engine.h"

namespace snapvm::disk {

/// Executes the calls of all files of one disk. One thread at a time. Destroyed after the files.
class IoLoop {
public:
    static Result<std::unique_ptr<IoLoop>> make(io::EngineKind engine, io::FaultHook hook);
    IoLoop(const IoLoop&) = delete;
    IoLoop& operator=(const IoLoop&) = delete;
    ~IoLoop();

    /// Returns a descriptor that becomes readable when reap() has something to do.
    [[nodiscard]] int event() const { return event_.get(); }
    /// Begins the calls that were made since. Others begin with reap() at the latest.
    void submit();
    /// Runs the tasks whose calls have ended until they wait again. A task must not call it.
    void reap();
    /// Waits until a call has ended, and reaps. Fails if no call is under way, or the kernel does
    /// not tell.
    Status wait();
    /// Makes the event readable, for a caller who has something to do that no call tells of.
    void wake() const;

    /// Runs a task to its end on the calling thread, for tools and tests. Aborts if the task waits
    /// for something that no call of this loop ends.
    template <class T>
    T run(Task<T> task);

private:
    friend class DiskIo;
    /// A call that a task waits for.
    struct Call : FileCalls::Call {
        DiskRequest work;
        std::coroutine_handle<> task;
        int error = 0;
    };
    IoLoop() = default;
    Call& take();
    void give_back(Call& call) { free_.push_back(&call); }
    void end(Call& call, int error);

    UniqueFd event_;  ///< eventfd
    std::deque<Call> pool_;
    std::vector<Call*> free_;
    std::vector<Call*> ended_;  ///< calls whose tasks go on with the next reap()
    std::vector<Call*> over_;   ///< of reap(), which leaves it empty
    bool reaping_ = false;      ///< reap() is about to run the tasks of what ends now
    std::unique_ptr<io::Engine> engine_;  // last: its requests are in pool_, so it is destroyed first
};

template <class T>
T IoLoop::run(Task<T> task) {
    // What a task of void gives is nothing, so any value says that it has ended.
    std::optional<std::conditional_t<std::is_void_v<T>, bool, T>> result;
    if constexpr (std::is_void_v<T>) {
        start(std::move(task), [&result] { result.emplace(true); });
    } else {
        start(std::move(task), [&result](T value) { result.emplace(std::move(value)); });
    }
    while (!result) {
        if (!wait()) {
            std::abort();
        }
    }
    if constexpr (!std::is_void_v<T>) {
        return *std::move(result);
    }
}

/// One opened image file or block device. Calls may be of any offset, size and memory: those that
/// O_DIRECT cannot do are bounced, or go through the page cache. A short call is continued. Reads
/// behind the end of a file give zeros; writes there extend a file up to its limit (ENOSPC).
class DiskIo {
public:
    DiskIo(DiskFile file, IoLoop& loop);
    DiskIo(const DiskIo&) = delete;
    DiskIo& operator=(const DiskIo&) = delete;
    /// No call may be under way.
    ~DiskIo();

    [[nodiscard]] const std::string& name() const { return file_.name; }
    [[nodiscard]] const DiskFile& file() const { return file_; }
    /// Lets other readers open the file (DiskFile::share). If that fails they are kept out, which
    /// harms nothing else.
    void share() { (void)file_.share(); }
    /// Says that the file has another path now.
    void moved_to(const std::string& path) { file_.moved_to(path); }
    /// Returns the size in bytes, with all by which writes have extended it, or will when they end.
    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] bool device() const { return file_.device; }
    /// Returns the size in bytes that it cannot exceed. That of a device is its size.
    [[nodiscard]] std::uint64_t limit() const { return file_.device ? file_.size : file_.max_size; }
    [[nodiscard]] std::uint32_t block_size() const { return file_.block_size; }
    [[nodiscard]] IoLoop& loop() { return loop_; }

    /// From now on, all calls use the page cache. Must be called before the first call by a user
    /// whose writes are not all of whole pages (4 KiB). A write of a part of a page that goes
    /// through the page cache reads that page, and later writes all of it. If a direct write of
    /// another part of the page is under way meanwhile, its bytes are lost.
    void use_page_cache() { file_.direct_fd.reset(); }

    // All fail with system (the call, the file, errno). The memory must stay until they end.
    Task<Status> read(std::uint64_t offset, std::span<const iovec> parts);
    Task<Status> read(std::uint64_t offset, std::span<std::byte> bytes);
    Task<Status> write(std::uint64_t offset, std::span<const iovec> parts);
    Task<Status> write(std::uint64_t offset, std::span<const std::byte> bytes);
    /// Makes the range read as zeros, and frees its space if `unmap` and the file can. Extends a
    /// file as a write does.
    Task<Status> zero(std::uint64_t offset, std::uint64_t size, bool unmap);
    /// Frees the range's space if the file can. What it reads as afterwards is not defined.
    Task<Status> discard(std::uint64_t offset, std::uint64_t size);
    /// Makes durable what has ended before (fdatasync). Does nothing if the file is transient.
    Task<Status> flush();
    /// Changes a file's size. Fails with unsupported for a device. No call behind the new end may
    /// be under way.
    Status truncate(std::uint64_t size);

    /// A range from an offset on.
    struct Range {
        bool hole = false;       ///< the file has no space for it, so it reads as zeros
        std::uint64_t size = 0;  ///< in bytes
    };
    /// Tells whether there is a hole at `offset`, and how far that, or its contrary, reaches: at
    /// most `size`, which is not 0. What is behind the end is a hole. It may wait for the disk.
    [[nodiscard]] Range hole_or_data(std::uint64_t offset, std::uint64_t size) const;

private:
    using Kind = DiskRequest::Kind;
    class Running;
    Task<Status> transfer(Kind kind, std::uint64_t offset, std::span<const iovec> parts);
    Task<Status> execute(Kind kind, std::uint64_t offset, std::uint64_t size, bool unmap);
    Status reserve(Kind kind, std::uint64_t offset, std::uint64_t size);
    [[nodiscard]] Status outcome(Kind kind, int error) const;

    DiskFile file_;
    IoLoop& loop_;
    std::uint64_t size_ = 0;
    FileCalls calls_;
};

}  // namespace snapvm::disk
