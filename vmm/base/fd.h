// SPDX-License-Identifier: Apache-2.0
// One owner per file descriptor, and system calls that finish what they started.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/base/error.h"

namespace snapvm {

/// Owns a file descriptor; closes it once. Not thread-safe itself; the descriptor may be used from several threads.
class UniqueFd {
public:
    UniqueFd() = default;
    explicit UniqueFd(int fd) : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;
    ~UniqueFd() { reset(); }

    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] bool valid() const { return fd_ >= 0; }
    [[nodiscard]] int release() { return std::exchange(fd_, -1); }
    void reset();

private:
    int fd_ = -1;
};

/// open(2) with O_CLOEXEC added.
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0);
/// dup(2) with close-on-exec: the same open file description, so locks and offset are shared.
Result<UniqueFd> duplicate(const UniqueFd& fd, std::string_view object);

/// Reads exactly `out.size()` bytes at `offset`; end of file before that is an error of kind invalid ("truncated").
Status read_exactly_at(int fd, std::span<std::byte> out, std::uint64_t offset, std::string_view object);
/// Writes all of `data` at `offset`, going on after short writes (traps.md: short write unchecked).
Status write_all_at(int fd, std::span<const std::byte> data, std::uint64_t offset, std::string_view object);
/// Writes all of `data` to a stream descriptor (pipe, socket, terminal).
Status write_all(int fd, std::span<const std::byte> data, std::string_view object);
/// A whole file, at most `limit` bytes; a larger one is refused.
Result<std::string> read_file(const std::string& path, std::size_t limit);

}  // namespace snapvm
