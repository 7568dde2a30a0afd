// SPDX-License-Identifier: Apache-2.0
// System calls on a disk's file, many at a time: by io_uring, or by threads where that is forbidden (many containers).
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// The environment variable SNAPVM_IO=threads turns automatic into threads.
enum class DiskEngineKind : std::uint8_t { automatic, uring, threads };

/// One call. It stays where it is until it has ended.
struct DiskCall {
    enum class Kind : std::uint8_t { read, write, flush, allocate, discard };
    Kind kind{};
    int fd = -1;
    std::uint64_t offset = 0;
    std::uint64_t size = 0;      ///< of a read or a write: the buffers' bytes
    std::vector<iovec> buffers;
    int flags = 0;               ///< preadv2's and pwritev2's, or fallocate's mode
};

/// What a test wants to happen instead, as snapshot/io.h's IoFault. Neither: the call goes ahead.
struct DiskFault {
    int error = 0;               ///< it fails with this errno, without effect
    std::uint64_t short_to = 0;  ///< it moves only so many bytes
};
using DiskHook = std::function<DiskFault(const DiskCall& call)>;

/// Used by one thread at a time.
class DiskEngine {
public:
    /// What the system call returned; negative: its errno.
    using Ended = std::function<void(DiskCall& call, std::int64_t result)>;

    DiskEngine() = default;
    DiskEngine(const DiskEngine&) = delete;
    DiskEngine& operator=(const DiskEngine&) = delete;
    /// Waits for what has begun.
    virtual ~DiskEngine() = default;

    virtual void add(DiskCall& call) = 0;
    /// Begins what was added.
    virtual void submit() = 0;
    /// Calls ended(call, result) for each that has ended; that may add calls.
    virtual void reap(const Ended& ended) = 0;
};

/// `event` is an eventfd of the caller's, which is written to when there is something to reap. At most `depth` calls are in flight.
Result<std::unique_ptr<DiskEngine>> make_disk_engine(DiskEngineKind kind, int event, unsigned depth);

// The two behind it.
Result<std::unique_ptr<DiskEngine>> make_uring_engine(int event, unsigned depth);
Result<std::unique_ptr<DiskEngine>> make_thread_engine(int event, unsigned threads);

}  // namespace snapvm
