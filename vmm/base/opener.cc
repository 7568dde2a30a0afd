// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/opener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/base/try.h"
#include "vmm/base/unix_socket.h"

namespace snapvm {
namespace {

constinit const Opener plain;
const Opener* current = &plain;

}  // namespace

Result<UniqueFd> Opener::open(int folder, const std::string& path, int flags, unsigned mode) const {
    const int fd = ::openat(folder, path.c_str(), flags | O_CLOEXEC | O_NOCTTY, mode);
    if (fd < 0) {
        return fail(Error::system("open", path, errno));
    }
    return UniqueFd(fd);
}

Status Opener::bind(int socket, const std::string& path) const {
    const sockaddr_un address = TRY(unix_address(path));
    if (::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return fail(Error::system("bind", path, errno));
    }
    return {};
}

const Opener& opener() { return *current; }

void set_opener(const Opener* with) { current = with != nullptr ? with : &plain; }

Result<FolderEntry> FolderEntry::of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    return FolderEntry(TRY(open_file(folder, O_PATH | O_DIRECTORY)), path.substr(slash + 1));  // npos + 1 is 0
}

bool FolderEntry::find(struct stat& file) const {
    return ::fstatat(folder_.get(), name_.c_str(), &file, AT_SYMLINK_NOFOLLOW) == 0;
}

bool FolderEntry::is(const struct stat& file) const {
    struct stat found{};
    return find(found) && is_same_file(found, file);
}

Result<UniqueFd> FolderEntry::hold() const { return opener().open(folder_.get(), name_, O_PATH | O_NOFOLLOW, 0); }

bool FolderEntry::remove() const { return ::unlinkat(folder_.get(), name_.c_str(), 0) == 0; }

bool FolderEntry::remove_if(const UniqueFd& held) const {
    struct stat file{};
    if (held.valid() && ::fstat(held.get(), &file) == 0 && is(file) && remove()) {
        return true;
    }
    return !find(file) && errno == ENOENT;
}

}  // namespace snapvm
