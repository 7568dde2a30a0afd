// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/absolute_path.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <filesystem>
#include <system_error>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm {

Result<std::string> absolute_path(const std::string& path) {
    if (path.empty()) {
        return path;
    }
    std::error_code error;
    const std::filesystem::path whole = std::filesystem::absolute(path, error);
    if (error) {
        return fail(Error::system("getcwd", path, error.value()));
    }
    return whole.string();
}

Result<std::string> canonical_path(const std::string& path) {
    const UniqueFd file = TRY(open_file(path, O_PATH));
    std::string found(PATH_MAX, '\0');
    const ssize_t size =
        ::readlink(("/proc/self/fd/" + std::to_string(file.get())).c_str(), found.data(), found.size());
    if (size <= 0 || found.front() != '/') {
        return fail(Error::system("readlink", path, size < 0 ? errno : ENOENT, "mount /proc"));
    }
    found.resize(static_cast<std::size_t>(size));
    return found;
}

}  // namespace snapvm
