// SPDX-License-Identifier: Apache-2.0
// An owner for file descriptors, and reads and writes that continue after a short transfer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm/base/error.h"

namespace snapvm {

/// Owns a file descriptor and closes it once. The object is not thread-safe; several threads may
/// use the descriptor.
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

/// Opens a path by the process's opener (opener.h): open(2) with O_CLOEXEC and O_NOCTTY added.
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0);
/// Opens the file of the descriptor `fd` once more. Returns none if that is not possible or if the
/// path names another file by now.
UniqueFd open_again(const std::string& path, int flags, int fd);
/// Duplicates `fd` with close-on-exec. Both refer to the same open file description, so they share
/// locks and offset. `object` names it in errors.
Result<UniqueFd> duplicate(int fd, std::string_view object);

/// Reads exactly `out.size()` bytes at `offset`. Fails with invalid ("truncated") if the file ends
/// before that.
Status read_exactly_at(int fd, std::span<std::byte> out, std::uint64_t offset, std::string_view object);
/// Writes all of `data` at `offset`. Continues after a short write.
Status write_all_at(int fd, std::span<const std::byte> data, std::uint64_t offset, std::string_view object);
/// Writes all of `data` to a stream descriptor (pipe, socket, terminal).
Status write_all(int fd, std::span<const std::byte> data, std::string_view object);
/// Returns the contents of a file. Fails with invalid if they exceed `limit` bytes.
Result<std::string> read_file(const std::string& path, std::size_t limit);
/// Returns the names in an opened folder, without "." and "..", in no order.
Result<std::vector<std::string>> names_in(const UniqueFd& folder);

}  // namespace snapvm
