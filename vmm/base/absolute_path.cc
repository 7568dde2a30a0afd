// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/absolute_path.h"

#include <filesystem>
#include <system_error>

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

}  // namespace snapvm
