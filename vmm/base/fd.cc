// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/fd.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "vmm/base/opener.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {

void UniqueFd::reset() {
    if (fd_ >= 0) {
        // Linux frees the descriptor even if close fails, so a retry would close another file.
        ::close(fd_);
        fd_ = -1;
    }
}

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
    return opener().open(AT_FDCWD, path, flags, mode);
}

UniqueFd open_again(const std::string& path, int flags, int fd) {
    auto again = open_file(path, flags);
    struct stat one{};
    struct stat other{};
    if (!again || ::fstat(again->get(), &one) != 0 || ::fstat(fd, &other) != 0 || !is_same_file(one, other)) {
        return {};
    }
    return *std::move(again);
}

Result<UniqueFd> duplicate(int fd, std::string_view object) {
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
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
                                                std::to_string(offset + done) + ", " +
                                                count_text(out.size() - done, "byte") + " short");
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
        if (put <= 0) {  // 0 without an error, returned again and again, would make this loop endless
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

Result<std::vector<std::string>> names_in(const UniqueFd& folder) {
    UniqueFd own = TRY(duplicate(folder.get(), "folder"));
    DIR* const list = ::fdopendir(own.get());
    if (list == nullptr) {
        return fail(Error::system("fdopendir", "folder", errno));
    }
    (void)own.release();  // closedir() closes it
    ::rewinddir(list);    // the duplicate shares the folder's position
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(list)) {  // NOLINT(concurrency-mt-unsafe): a list of its own
        if (const std::string_view name = entry->d_name; name != "." && name != "..") {
            names.emplace_back(name);
        }
    }
    const int error = errno;
    ::closedir(list);
    if (error != 0) {
        return fail(Error::system("readdir", "folder", error));
    }
    return names;
}

}  // namespace snapvm
