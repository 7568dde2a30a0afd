// SPDX-License-Identifier: Apache-2.0
// Every change a writer makes to an area goes through here or a PageSink, so that tests can fail or stop each of them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "vmm/base/error.h"

namespace snapvm {

/// What a change is part of.
enum class IoStep : std::uint8_t { superblock, section, pages, zero, flush };
[[nodiscard]] std::string_view name_of(IoStep step);

struct IoEvent {
    IoStep step{};
    std::uint64_t offset = 0;  ///< in the file
    std::uint64_t size = 0;
};

/// What a test wants to happen instead. Neither: the call goes ahead.
struct IoFault {
    int error = 0;                ///< the call fails with this errno, without effect
    std::uint64_t short_to = 0;   ///< the call writes only so many bytes, as a full disk or a signal makes it do
};

/// Called on the writer's thread before each change. May _exit, to stop the writer dead.
using IoHook = std::function<IoFault(const IoEvent&)>;

/// Buffered changes to one area; offsets are the area's own.
class AreaIo {
public:
    AreaIo(int fd, std::string name, std::uint64_t base, bool device, IoHook hook)
        : fd_(fd), name_(std::move(name)), base_(base), device_(device), hook_(std::move(hook)) {}

    Status write(IoStep step, std::span<const std::byte> data, std::uint64_t offset);
    /// Makes a page-aligned range read as zeros: a hole in a file, write-zeroes on a device, zeros where neither is offered.
    Status zero(std::uint64_t offset, std::uint64_t size);
    /// fdatasync(2).
    Status flush();

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
