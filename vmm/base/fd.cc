// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "vmm/base/try.h"

namespace snapvm {

void UniqueFd::reset() {
    if (fd_ >= 0) {
        // Linux frees the descriptor even when close fails, so there is nothing to retry.
        ::close(fd_);
        fd_ = -1;
    }
}

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd < 0) {
        return fail(Error::system("open", path, errno));
    }
    return UniqueFd(fd);
}

Result<UniqueFd> duplicate(const UniqueFd& fd, std::string_view object) {
    const int copy = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        return fail(Error::system("dup", object, errno));
    }
    return UniqueFd(copy);
}

Status read_exactly_at(int fd, std::span<std::byte> out, std::uint64_t offset, std::string_view object) {
    std::size_t done = 0;
    while (done < out.size()) {
        const ssize_t got = ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail(Error::system("read", object, errno));
        }
        if (got == 0) {
            return fail(ErrorKind::invalid, std::string(object) + " is truncated: it ends at byte " +
                                                std::to_string(offset + done) + ", " + std::to_string(out.size() - done) +
                                                " bytes short");
        }
        done += static_cast<std::size_t>(got);
    }
    return {};
}

Status write_all_at(int fd, std::span<const std::byte> data, std::uint64_t offset, std::string_view object) {
    std::size_t done = 0;
    while (done < data.size()) {
        const ssize_t put = ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return fail(Error::system("write", object, put == 0 ? EIO : errno));
        }
        done += static_cast<std::size_t>(put);
    }
    return {};
}

Status write_all(int fd, std::span<const std::byte> data, std::string_view object) {
    std::size_t done = 0;
    while (done < data.size()) {
        const ssize_t put = ::write(fd, data.data() + done, data.size() - done);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {  // 0: a file that takes no more and says no more would keep us here for good
            return fail(Error::system("write", object, put == 0 ? EIO : errno));
        }
        done += static_cast<std::size_t>(put);
    }
    return {};
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
    const UniqueFd fd = TRY(open_file(path, O_RDONLY));
    std::string text;
    std::array<char, 65536> chunk;
    while (true) {
        const ssize_t got = ::read(fd.get(), chunk.data(), chunk.size());
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail(Error::system("read", path, errno));
        }
        if (got == 0) {
            return text;
        }
        if (text.size() + static_cast<std::size_t>(got) > limit) {
            return fail(ErrorKind::invalid, path + " is larger than " + std::to_string(limit) + " bytes");
        }
        text.append(chunk.data(), static_cast<std::size_t>(got));
    }
}

}  // namespace snapvm
