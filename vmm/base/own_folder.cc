// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/own_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/base/opener.h"
#include "vmm/base/try.h"

namespace snapvm {
Result<UniqueFd> open_own_folder(int parent, const std::string& name, const std::string& path,
                                 const std::string& advice) {
    auto folder = opener().open(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (!folder && (folder.error().code() == ENOTDIR || folder.error().code() == ELOOP)) {
        return fail(ErrorKind::usage, path + " is a symbolic link, or is no folder", advice);
    }
    if (!folder) {
        return fail(Error::system("open", path, folder.error().code(), advice));
    }
    struct stat info{};
    if (::fstat(folder->get(), &info) != 0) {
        return fail(Error::system("fstat", path, errno));
    }
    if (info.st_uid != ::geteuid()) {
        return fail(ErrorKind::usage, path + " belongs to another user (uid " + std::to_string(info.st_uid) + ")",
                    advice);
    }
    if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return fail(ErrorKind::usage, "others than its owner may write to " + path,
                    "take that right away (chmod go-w), or " + advice);
    }
    return folder;
}

Result<UniqueFd> make_own_folder(int parent, const std::string& name, const std::string& path,
                                 const std::string& advice) {
    auto folder = open_own_folder(parent, name, path, advice);
    if (folder || folder.error().code() != ENOENT) {
        return folder;
    }
    if (::mkdirat(parent, name.c_str(), 0700) != 0 && errno != EEXIST) {
        return fail(Error::system("mkdir", path, errno, advice));
    }
    return open_own_folder(parent, name, path, advice);
}

}  // namespace snapvm
