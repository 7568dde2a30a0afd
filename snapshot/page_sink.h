// SPDX-License-Identifier: Apache-2.0
// Takes page data to the disk, many writes at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "snapshot/io.h"
#include "vmm/base/error.h"

namespace snapvm {

/// Which machinery writes. `automatic`: io_uring, or threads with pwritev2(2) where it is forbidden (many containers) or missing.
/// The environment variable SNAPVM_IO=threads turns automatic into threads.
enum class SinkBackend : std::uint8_t { automatic, uring, threads };

inline constexpr std::size_t kMaxPageWrite = 1U << 20;  ///< bytes in one write

/// Asynchronous writes of one file. One thread uses it; the first error sticks and every later call returns it.
class PageSink {
public:
    PageSink() = default;
    PageSink(const PageSink&) = delete;
    PageSink& operator=(const PageSink&) = delete;
    /// Waits for what is in flight: until then the kernel may read the data.
    virtual ~PageSink() = default;

    /// Queues a write of at most kMaxPageWrite bytes at `offset` in the file; waits while too many are in flight. It is read
    /// until drain(): what is written to it meanwhile may get there or not. No two writes between drains may overlap (their order is undefined).
    virtual Status write(std::span<const std::byte> data, std::uint64_t offset) = 0;
    /// Waits for all writes, short ones continued to their end.
    virtual Status drain() = 0;
    [[nodiscard]] virtual std::string_view name() const = 0;
};

struct SinkTarget {
    int fd = -1;
    std::string name;  ///< for messages
    IoHook hook;
};

Result<std::unique_ptr<PageSink>> make_page_sink(SinkTarget target, SinkBackend backend);

// The two behind it.
Result<std::unique_ptr<PageSink>> make_uring_sink(SinkTarget target);
Result<std::unique_ptr<PageSink>> make_thread_sink(SinkTarget target);

}  // namespace snapvm
