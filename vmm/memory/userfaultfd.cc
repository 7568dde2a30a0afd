// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace snapvm {
namespace {

std::atomic<std::uint64_t> hidden = 0;

}  // namespace

Result<Userfaultfd> open_userfaultfd() {
    UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    if (fd.valid()) {
        return Userfaultfd{std::move(fd), "system call"};
    }
    const int error = errno;
#ifdef USERFAULTFD_IOC_NEW
    if (const auto device = open_file("/dev/userfaultfd", O_RDWR)) {
        fd = UniqueFd(::ioctl(device->get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
        if (fd.valid()) {
            return Userfaultfd{std::move(fd), "/dev/userfaultfd"};
        }
    }
#endif
    return fail(Error::system("userfaultfd", "", error));
}

Result<std::uint64_t> agree_on_features(const UniqueFd& userfaultfd, std::uint64_t features) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = features;
    const bool lacking = (features & hidden) != 0;
    if (lacking || ::ioctl(userfaultfd.get(), UFFDIO_API, &api) != 0) {
        return fail(Error::system("UFFDIO_API", "userfaultfd", lacking ? EINVAL : errno));
    }
    return api.features & ~hidden;
}

void hide_userfaultfd_features(std::uint64_t features) { hidden = features; }

}  // namespace snapvm
