// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/area_identity.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace snapvm {

Result<AreaIdentity> AreaIdentity::of(int fd, std::uint64_t offset, const std::string& name) {
    struct stat info{};
    if (::fstat(fd, &info) != 0) {
        return fail(Error::system("fstat", name, errno));
    }
    if (S_ISBLK(info.st_mode)) {
        return AreaIdentity{.device = true, .volume = 0, .number = info.st_rdev, .offset = offset, .own = true};
    }
    const bool own = info.st_uid == ::geteuid() && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
    return AreaIdentity{.device = false, .volume = info.st_dev, .number = info.st_ino, .offset = offset, .own = own};
}

}  // namespace snapvm
