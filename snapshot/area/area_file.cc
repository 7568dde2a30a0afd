// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/area_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

Result<struct stat> stat_of(int fd, std::string_view name) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) {
        return fail(Error::system("fstat", name, errno));
    }
    return info;
}

// Replaces the descriptor of a device by one of its canonical node. Opens a lock file if that node
// cannot be opened.
Status settle_device(AreaFile& file, dev_t number, int flags) {
    file.device = true;
    file.end = TRY(device_size(file.fd.get(), file.name));
    const std::string node = canonical_device_node(number);
    if (!node.empty()) {
        if (auto fd = open_file(node, flags); fd) {
            const struct stat info = TRY(stat_of(fd->get(), node));
            if (S_ISBLK(info.st_mode) && info.st_rdev == number) {
                file.fd = *std::move(fd);
                file.opened_path = node;
                return {};
            }
        }
    }
    file.lock_fd = TRY(open_lock_file(number));
    return {};
}

std::string advice_for(int error, int flags) {
    switch (error) {
        case ENOENT: return "check the path";
        case EACCES:
            return (flags & O_ACCMODE) == O_RDONLY ? "get permission to read it" : "get permission to write it";
        case EPERM: return "check whether it is immutable (lsattr)";
        case EROFS: return "give a path on a file system that can be written";
        case EISDIR: return "give a file or a block device";
        default: return {};
    }
}

// Fails unless the file is this user's alone.
Status check_private(const AreaFile& file) {
    const struct stat info = TRY(stat_of(file.fd.get(), file.name));
    if (info.st_uid != ::geteuid()) {
        return fail(ErrorKind::usage,
                    file.name + " belongs to another user (uid " + std::to_string(info.st_uid) +
                        "), and a snapshot holds the guest's memory",
                    "give another path");
    }
    if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return fail(ErrorKind::usage,
                    "others than its owner have rights to " + file.name + ", and a snapshot holds the guest's memory",
                    "take them away (chmod 600), or give another path");
    }
    return {};
}

}  // namespace

Result<AreaFile> AreaFile::open(const AreaPath& area, int flags) {
    // With O_NONBLOCK the open does not wait for the other end of a FIFO, which is refused below.
    // It has no effect on files and disks.
    flags |= O_NONBLOCK;
    auto fd = open_file(area.path, flags, 0600);
    if (!fd) {
        if (fd.error().code() == EBUSY) {
            return fail(ErrorKind::busy, area.path + " is mounted or otherwise in use",
                        "unmount it, or use another device");
        }
        return fail(Error::system("open", area.path, fd.error().code(), advice_for(fd.error().code(), flags)));
    }
    AreaFile file;
    file.fd = *std::move(fd);
    file.name = area.text();
    file.opened_path = area.path;
    file.base = area.offset;
    const struct stat info = TRY(stat_of(file.fd.get(), file.name));
    if (S_ISBLK(info.st_mode)) {
        // With O_EXCL this descriptor claims the disk and stays: a second exclusive open, of the
        // canonical node, would fail. The locks go to a descriptor of that node without O_EXCL.
        if ((flags & O_EXCL) != 0) {
            file.device = true;
            file.end = TRY(device_size(file.fd.get(), file.name));
            const std::string node = canonical_device_node(info.st_rdev);
            auto lock_node = node.empty() ? open_lock_file(info.st_rdev) : open_file(node, O_RDWR);
            struct stat opened{};
            // In a container the path may be that of another device.
            const bool same = lock_node && ::fstat(lock_node->get(), &opened) == 0 && opened.st_rdev == info.st_rdev;
            file.lock_fd = node.empty() || same ? TRY(std::move(lock_node)) : TRY(open_lock_file(info.st_rdev));
            return file;
        }
        TRY(settle_device(file, info.st_rdev, flags));
        return file;
    }
    if (!S_ISREG(info.st_mode)) {
        return fail(ErrorKind::invalid,
                    area.path + (S_ISDIR(info.st_mode) ? " is a directory" : " is neither a file nor a block device"),
                    "give a file or a block device");
    }
    file.end = static_cast<std::uint64_t>(info.st_size);
    return file;
}

Result<AreaFile> AreaFile::open_or_create(const AreaPath& area, std::optional<FolderEntry>& created) {
    auto entry = FolderEntry::of(area.path);
    if (!entry) {
        return fail(Error::system("open", area.path, entry.error().code(), advice_for(entry.error().code(), O_RDWR)));
    }
    for (int tries = 0;; ++tries) {
        auto file = open(area, O_RDWR | O_CREAT | O_EXCL);
        if (file) {
            created = *std::move(entry);
            return file;
        }
        if (file.error().code() != EEXIST) {
            return file;
        }
        file = open(area, O_RDWR);
        if (file && !file->device) {
            TRY(check_private(*file));
        }
        if (file || file.error().code() != ENOENT) {
            return file;
        }
        if (struct stat link{}; entry->find(link) && S_ISLNK(link.st_mode)) {
            return fail(ErrorKind::usage, area.path + " is a symbolic link that leads to no file",
                        "make that file, or give another path");
        }
        if (tries > 0) {  // a writer that failed has removed the file that it had made, twice
            return file;
        }
    }
}

Status AreaFile::unlock(std::uint64_t offset, std::uint64_t size) const {
    return unlock_range(lock_descriptor(), base + offset, size, name);
}

Status AreaFile::read(std::span<std::byte> out, std::uint64_t offset) const {
    return read_exactly_at(fd.get(), out, base + offset, name);
}

}  // namespace snapvm
