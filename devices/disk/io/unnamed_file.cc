// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/io/unnamed_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>

#include "vmm/base/opener.h"
#include "vmm/base/try.h"

namespace snapvm::disk {
namespace {

constexpr unsigned kMode = 0600;  // it holds a guest's files

std::string temporary_folder() {
    const char* const named = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): nothing changes it
    return named == nullptr || *named == '\0' ? "/var/tmp" : named;
}

// For file systems without O_TMPFILE: a file that loses its name at once.
Result<UniqueFd> make_and_remove(const std::string& folder) {
    std::uint64_t number = 0;
    if (::getrandom(&number, sizeof number, 0) != static_cast<ssize_t>(sizeof number)) {
        return fail(Error::system("getrandom", "", errno));
    }
    const FolderEntry entry = TRY(FolderEntry::of(folder + "/snapvm-" + std::to_string(number)));
    auto file = opener().open(entry.folder(), entry.name(), O_CREAT | O_EXCL | O_RDWR, kMode);
    if (file && !entry.remove()) {
        return fail(Error::system("unlink", folder + "/" + entry.name(), errno));
    }
    return file;
}

}  // namespace

Result<UniqueFd> make_memory_file(const std::string& name) {
    UniqueFd file(::memfd_create(name.substr(0, 200).c_str(), MFD_CLOEXEC));  // 249 bytes at most
    if (!file.valid()) {
        return fail(Error::system("memfd_create", name, errno));
    }
    return file;
}

Result<UniqueFd> make_temporary_file() {
    const std::string folder = temporary_folder();
    auto file = open_file(folder, O_TMPFILE | O_RDWR, kMode);
    // A kernel or a file system that does not know O_TMPFILE opens a folder, which fails.
    if (!file && (file.error().code() == EOPNOTSUPP || file.error().code() == EISDIR)) {
        file = make_and_remove(folder);
    }
    if (!file) {
        return fail(std::move(file)
                        .error()
                        .within("a temporary file in " + folder)
                        .advise("set TMPDIR to a folder that can be written"));
    }
    return file;
}

}  // namespace snapvm::disk
