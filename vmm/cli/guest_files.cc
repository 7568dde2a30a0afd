// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/guest_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "guest-images/ledger/image.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm::cli {
namespace {

constexpr std::uint64_t kMaxFile = 4ULL << 30;

}  // namespace

Result<GuestFile> GuestFile::open(const std::string& path, const std::string& what) {
    GuestFile file;
    if (path == "builtin:ledger") {
        file.bytes_ = ledger_image();
        return file;
    }
    if (path.starts_with("builtin:")) {
        return fail(ErrorKind::usage, what + " " + path + " is not built in", "there is builtin:ledger");
    }
    const UniqueFd fd = TRY(open_file(path, O_RDONLY));
    struct stat info{};
    if (::fstat(fd.get(), &info) != 0) {
        return fail(Error::system("fstat", path, errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_size == 0 || static_cast<std::uint64_t>(info.st_size) > kMaxFile) {
        return fail(ErrorKind::usage, what + " " + path + " is not a regular file of 1 byte to 4G");
    }
    const auto size = static_cast<std::uint64_t>(info.st_size);
    file.mapping_ = TRY(Mapping::of_file(fd.get(), 0, align_up(size, kPageSize), kPageSize, /*shared=*/false, /*writable=*/false));
    file.bytes_ = std::span<const std::byte>(file.mapping_.bytes()).first(size);
    return file;
}

}  // namespace snapvm::cli
