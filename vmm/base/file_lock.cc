// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/file_lock.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/base/opener.h"
#include "vmm/base/own_folder.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

std::string device_number_text(dev_t number) {
    return std::to_string(major(number)) + ":" + std::to_string(minor(number));
}

struct flock range_of(int type, std::uint64_t offset, std::uint64_t size) {
    struct flock range{};
    range.l_type = static_cast<short>(type);
    range.l_whence = SEEK_SET;
    range.l_start = static_cast<off_t>(offset);
    range.l_len = static_cast<off_t>(size);
    return range;
}

Status in_use(const std::string& name, std::string_view who, std::string_view advice) {
    return fail(ErrorKind::busy, name + " is in use: " + std::string(who), std::string(advice));
}

}  // namespace

Result<std::uint64_t> device_size(int fd, std::string_view name) {
    std::uint64_t size = 0;
    if (::ioctl(fd, BLKGETSIZE64, &size) != 0) {
        return fail(Error::system("BLKGETSIZE64", name, errno));
    }
    return size;
}

std::string canonical_device_node(std::uint64_t device_number) {
    const auto uevent = read_file("/sys/dev/block/" + device_number_text(device_number) + "/uevent", 65536);
    constexpr std::string_view kKey = "DEVNAME=";
    const std::size_t at = uevent ? uevent->find(kKey) : std::string::npos;
    if (at == std::string::npos) {
        return {};
    }
    const std::size_t start = at + kKey.size();
    return "/dev/" + uevent->substr(start, uevent->find('\n', start) - start);
}

Result<UniqueFd> open_lock_file(std::uint64_t device_number) {
    const UniqueFd memory = TRY(open_file("/dev/shm", O_PATH | O_DIRECTORY));
    const std::string name = "snapvm-" + std::to_string(::geteuid());
    const UniqueFd own = TRY(make_own_folder(memory.get(), name, "/dev/shm/" + name,
                                             "have it removed, since this disk cannot be locked without it"));
    return opener().open(own.get(), "block-" + device_number_text(device_number) + ".lock",
                         O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
}

Status lock_range(int fd, bool exclusive, std::uint64_t offset, std::uint64_t size, const std::string& name,
                  std::string_view who, std::string_view advice) {
    struct flock range = range_of(exclusive ? F_WRLCK : F_RDLCK, offset, size);
    if (::fcntl(fd, F_OFD_SETLK, &range) == 0) {
        return {};
    }
    if (errno == EAGAIN || errno == EACCES) {
        return in_use(name, who, advice);
    }
    return fail(Error::system("F_OFD_SETLK", name, errno));
}

Status test_range(int fd, bool exclusive, std::uint64_t offset, std::uint64_t size, const std::string& name,
                  std::string_view who, std::string_view advice) {
    struct flock range = range_of(exclusive ? F_WRLCK : F_RDLCK, offset, size);
    if (::fcntl(fd, F_OFD_GETLK, &range) != 0) {
        return fail(Error::system("F_OFD_GETLK", name, errno));
    }
    return range.l_type == F_UNLCK ? Status() : in_use(name, who, advice);
}

Status unlock_range(int fd, std::uint64_t offset, std::uint64_t size, const std::string& name) {
    struct flock range = range_of(F_UNLCK, offset, size);
    if (::fcntl(fd, F_OFD_SETLK, &range) != 0) {
        return fail(Error::system("F_OFD_SETLK", name, errno));
    }
    return {};
}

}  // namespace snapvm
