// SPDX-License-Identifier: Apache-2.0
// Each write of a snapshot to its area goes through AreaIo or a PageSink, where a test can make it
// fail or stop the process.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/io/fault.h"

namespace snapvm {

/// The kind of a change.
enum class IoStep : std::uint8_t { superblock, section, pages, zero, flush };
[[nodiscard]] std::string_view name_of(IoStep step);

struct IoEvent {
    IoStep step{};
    std::uint64_t offset = 0;  ///< in the file, in bytes
    std::uint64_t size = 0;
};

/// Called on the writer's thread before each change. It may call _exit, to end the writer at that
/// point.
using IoHook = std::function<io::Fault(const IoEvent&)>;

/// Buffered writes to one area. Offsets are from the start of the area. One thread.
class AreaIo {
public:
    AreaIo(int fd, std::string name, std::uint64_t base, bool device, IoHook hook)
        : fd_(fd), name_(std::move(name)), base_(base), device_(device), hook_(std::move(hook)) {}

    /// Writes all of `data`.
    Status write(IoStep step, std::span<const std::byte> data, std::uint64_t offset);
    /// Makes a range read as zeros: punches a hole in a file, uses write-zeroes on a device, and
    /// writes zeros if the file system or device offers neither. The range ends at a multiple of
    /// 4 KiB; what of it lies before the first such multiple is written.
    Status zero(std::uint64_t offset, std::uint64_t size);
    /// Calls fdatasync(2).
    Status flush();

    /// Returns the number of bytes written so far. Ranges zeroed without a write do not count.
    [[nodiscard]] std::uint64_t written_bytes() const { return written_; }
    [[nodiscard]] const IoHook& hook() const { return hook_; }

private:
    Status write_zeros(std::uint64_t offset, std::uint64_t size);

    int fd_;
    std::string name_;
    std::uint64_t base_;
    bool device_;
    IoHook hook_;
    std::uint64_t written_ = 0;
    bool can_deallocate_ = true;
};

}  // namespace snapvm
