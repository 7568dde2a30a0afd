// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/disk_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <string_view>

#include "devices/disk/image_format.h"
#include "devices/disk/image_lock.h"
#include "devices/disk/layer_mark.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint32_t kSector = 512;

// What the user can do, by what the disk is for.
class Advice {
public:
    Advice(const std::string& id, const DiskOptions& options)
        : another_("give a copy of it: --set disk." + id + ".path=FILE"), options_(options) {}

    [[nodiscard]] std::string on_missing() const {
        return options_.restored ? "bring the file back, or " + another_
                                 : "check the path, or make the file: truncate -s 1G FILE";
    }
    [[nodiscard]] std::string on_empty() const {
        return options_.restored ? "bring its contents back, or " + another_ : "give it a size: truncate -s 1G FILE";
    }
    /// Of a disk that cannot be written, or that another has.
    [[nodiscard]] std::string or_without_writing(const std::string& first) const {
        return first + (options_.restored ? ", or " + another_ : ", or attach it with readonly=on");
    }
    [[nodiscard]] std::string on_locked() const {
        if (options_.read_only) {
            return "stop that one first, or give this one a copy";
        }
        return options_.restored ? or_without_writing("stop that one first")
                                 : "stop that one first, or attach it with readonly=on to both";
    }
    [[nodiscard]] Error open_error(const std::string& name, int error) const {
        if (error == EBUSY) {
            return {ErrorKind::busy, name + " is mounted or otherwise in use", or_without_writing("unmount it")};
        }
        return Error::system("open", name, error, on_error(error));
    }

private:
    [[nodiscard]] std::string on_error(int error) const {
        switch (error) {
            case ENOENT:
            case ENOTDIR: return on_missing();
            case EACCES:
            case EPERM:
                return options_.read_only ? "get permission to read it"
                                          : or_without_writing("get permission to write it");
            case EROFS: return or_without_writing("make its file system writable");
            case EISDIR: return "give a file or a block device";
            default: return {};
        }
    }
    std::string another_;
    const DiskOptions& options_;
};

Result<struct stat> stat_of(int fd, const std::string& name) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) {
        return fail(Error::system("fstat", name, errno));
    }
    return info;
}

bool sane(std::uint32_t alignment) { return std::has_single_bit(alignment) && alignment <= 65536; }

std::uint32_t logical_block_of(int device) {
    int block = 0;
    const bool known = ::ioctl(device, BLKSSZGET, &block) == 0 && block > 0 && sane(static_cast<std::uint32_t>(block));
    return known ? static_cast<std::uint32_t>(block) : kSector;
}

DirectAlignment alignment_of(int fd, bool device) {
    DirectAlignment found;
#ifdef STATX_DIOALIGN
    struct statx info{};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0 &&
        sane(info.stx_dio_mem_align) && sane(info.stx_dio_offset_align)) {
        // The lengths of buffers are checked against the offset alignment, so a smaller memory
        // alignment only matters for where they start.
        return {info.stx_dio_mem_align, info.stx_dio_offset_align};
    }
#endif
    // Older kernels do not report the alignment. A file that needs more refuses with EINVAL, and
    // the request is then repeated through the page cache.
    if (device) {
        found.memory = found.offset = logical_block_of(fd);
    }
    return found;
}

// Opens the device's canonical node in place of the given one. A device that is to be written is
// claimed with O_EXCL, which fails if it is mounted.
Status settle_device(DiskFile& file, std::string& path, std::uint64_t number, int flags, const Advice& advice) {
    file.device = true;
    if ((flags & O_ACCMODE) != O_RDONLY) {
        flags |= O_EXCL;
    }
    const std::string canonical = canonical_device_node(number);
    for (const std::string& node : {canonical, path}) {
        auto fd = open_file(node, flags);
        if (!fd) {
            if (fd.error().code() == EBUSY) {
                return fail(advice.open_error(file.name, EBUSY));
            }
            continue;
        }
        const struct stat info = TRY(stat_of(fd->get(), file.name));
        if (!S_ISBLK(info.st_mode) || info.st_rdev != number) {
            continue;
        }
        file.fd = *std::move(fd);
        if (node != canonical) {
            file.lock_fd = TRY(open_lock_file(number));
        }
        path = node;
        return {};
    }
    return fail(ErrorKind::system, file.name + " cannot be opened again", "check whether another program removes it");
}

// Refuses what a guest would destroy, or not see.
Status check_raw(const DiskFile& file) {
    const std::string_view format = TRY(image_format(file.fd.get(), file.size, file.name));
    if (!format.empty()) {
        return fail(ErrorKind::invalid,
                    file.name + " looks like a " + std::string(format) +
                        ", and its first write as a raw disk would destroy that",
                    format == "qcow2" ? "add format=qcow2, or format=raw if it is a raw disk all the same"
                                      : "convert it (qemu-img convert -O raw), or add format=raw if it is a raw disk "
                                        "all the same");
    }
    if (const std::uint64_t tail = file.size % kSector; tail != 0) {
        return fail(ErrorKind::invalid,
                    file.name + " ends within a sector: a guest would not see its last " + count_text(tail, "byte"),
                    "fill the sector up (truncate -s %512 FILE), or add format=raw to leave them out");
    }
    return {};
}

}  // namespace

Result<DiskFile> DiskFile::open(const std::string& id, const std::string& path, const DiskOptions& options) {
    const Advice advice(id, options);
    const bool read_only = options.read_only;
    DiskFile file;
    file.id = id;
    file.moved_to(path);
    const int flags = read_only ? O_RDONLY : O_RDWR;
    // With O_NONBLOCK the open does not wait for the other end of a FIFO, which is refused below.
    auto fd = open_file(path, flags | O_NONBLOCK);
    if (!fd) {
        return fail(advice.open_error(file.name, fd.error().code()));
    }
    file.fd = *std::move(fd);
    const struct stat info = TRY(stat_of(file.fd.get(), file.name));
    std::string opened = path;
    if (S_ISBLK(info.st_mode)) {
        TRY(settle_device(file, opened, info.st_rdev, flags, advice));
        file.size = TRY(device_size(file.fd.get(), file.name));
        file.block_size = logical_block_of(file.fd.get());
    } else if (S_ISREG(info.st_mode)) {
        file.size = static_cast<std::uint64_t>(info.st_size);
        // Clears O_NONBLOCK: io_uring would fail a call with EAGAIN instead of waiting for the
        // disk.
        if (::fcntl(file.fd.get(), F_SETFL, 0) != 0) {
            return fail(Error::system("F_SETFL", file.name, errno));
        }
    } else {
        return fail(ErrorKind::invalid,
                    file.name + (S_ISDIR(info.st_mode) ? " is a directory" : " is neither a file nor a block device"),
                    "give a file or a block device");
    }
    if (options.format == DiskFormat::unstated) {
        TRY(check_raw(file));
    }
    file.size = file.size / kSector * kSector;
    if (file.size == 0) {
        return fail(ErrorKind::invalid, file.name + " is empty", advice.on_empty());
    }
    Status locked = lock_image(file.lock_descriptor(), read_only ? kImageReader : kImageWriter, file.name,
                               read_only ? "another machine writes it" : "another machine has it", advice.on_locked());
    if (!read_only) {
        // The machine that has a frozen layer is not the reason, and no advice to stop it helps.
        TRY(disk::refuse_frozen(file.fd.get(), file.path, file.name));
    }
    TRY(std::move(locked));
    if (options.direct) {
        // Without it, requests use the page cache.
        file.direct_fd = open_again(opened, flags | O_DIRECT, file.fd.get());
        file.alignment = alignment_of(file.direct_fd.valid() ? file.direct_fd.get() : file.fd.get(), file.device);
    }
    return file;
}

Status DiskFile::share() { return share_image(lock_descriptor(), name); }

}  // namespace snapvm
