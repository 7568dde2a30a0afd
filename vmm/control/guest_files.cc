// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/guest_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "guest-images/ledger/image.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kMaxFile = 4ULL << 30;

}  // namespace

Result<GuestFiles> GuestFiles::open(const MachineConfig& config) {
    GuestFiles files;
    files.source_.kernel = TRY(files.bytes_of(config.kernel, "kernel"));
    for (const std::string& path : config.initrds) {
        files.source_.initrds.push_back(TRY(files.bytes_of(path, "initrd")));
    }
    files.source_.cmdline = config.cmdline;
    files.source_.cpus = config.cpus;
    files.source_.force_pvh = config.boot == BootProtocol::pvh;
    files.source_.force_linux64 = config.boot == BootProtocol::linux64;
    return files;
}

// `what` names the file's use in messages.
Result<std::span<const std::byte>> GuestFiles::bytes_of(const std::string& path, const std::string& what) {
    if (path == "builtin:ledger") {
        return ledger_image();
    }
    if (path.starts_with("builtin:")) {
        return fail(ErrorKind::usage, what + " " + path + " is not built in", "use builtin:ledger");
    }
    const auto fd = open_file(path, O_RDONLY);
    if (!fd) {
        return fail(Error::system("open", what + " " + path, fd.error().code(), "check the path"));
    }
    struct stat info{};
    if (::fstat(fd->get(), &info) != 0) {
        return fail(Error::system("fstat", what + " " + path, errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_size == 0 || static_cast<std::uint64_t>(info.st_size) > kMaxFile) {
        return fail(ErrorKind::usage, what + " " + path + " is not a regular file of 1 byte to 4G", "check the path");
    }
    const auto size = static_cast<std::uint64_t>(info.st_size);
    mappings_.push_back(TRY(
        Mapping::of_file(fd->get(), 0, align_up(size, kPageSize), kPageSize, /*shared=*/false, /*writable=*/false)));
    return std::span<const std::byte>(mappings_.back().bytes()).first(size);
}

}  // namespace snapvm
