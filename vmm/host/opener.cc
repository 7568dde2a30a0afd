// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/opener.h"

#include <fcntl.h>

#include <algorithm>

#include "vmm/base/try.h"

namespace snapvm {

Result<std::unique_ptr<HostOpener>> HostOpener::take() {
    UniqueFd root = TRY(open_file("/", O_PATH | O_DIRECTORY));
    std::unique_ptr<HostOpener> taken(new HostOpener(std::move(root), open_file(".", O_PATH | O_DIRECTORY)));
    set_opener(taken.get());
    return taken;
}

Result<UniqueFd> HostOpener::open(int folder, const std::string& path, int flags, unsigned mode) const {
    if (!path.starts_with('/')) {
        if (folder != AT_FDCWD) {
            return Opener::open(folder, path, flags, mode);
        }
        if (!current_) {
            return fail(Error::system("open", path, current_.error().code()));
        }
        return Opener::open(current_->get(), path, flags, mode);
    }
    const std::size_t first = std::min(path.find_first_not_of('/'), path.size());
    const std::string from_root = first == path.size() ? "." : path.substr(first);
    auto opened = Opener::open(root_.get(), from_root, flags, mode);
    if (!opened) {
        return fail(Error::system("open", path, opened.error().code()));
    }
    return opened;
}

}  // namespace snapvm
