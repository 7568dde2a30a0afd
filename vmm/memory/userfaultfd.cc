// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "vmm/memory/gpa.h"

namespace snapvm {
namespace {

std::atomic<std::uint64_t> hidden = 0;
constexpr std::uint64_t kContinueProtected = 1ULL << 1;  // UFFDIO_CONTINUE_MODE_WP: Debian 12's headers lack it

static_assert(static_cast<std::uint64_t>(FaultKind::missing) == UFFDIO_REGISTER_MODE_MISSING);
static_assert(static_cast<std::uint64_t>(FaultKind::write_protect) == UFFDIO_REGISTER_MODE_WP);
static_assert(static_cast<std::uint64_t>(FaultKind::minor) == UFFDIO_REGISTER_MODE_MINOR);

std::uintptr_t address(const std::byte* at) { return reinterpret_cast<std::uintptr_t>(at); }

uffdio_range kernel_range(std::span<std::byte> range) { return {address(range.data()), range.size()}; }

// EAGAIN means that the address space was being changed. The call has done nothing then.
template <class Request>
Status call(const UniqueFd& userfaultfd, unsigned long number, Request& request, std::string_view name,
            std::string_view object) {
    while (::ioctl(userfaultfd.get(), number, &request) != 0) {
        if (errno != EAGAIN && errno != EINTR) {
            return fail(Error::system(name, object, errno));
        }
    }
    return {};
}

// Populates pages by `number`. `request(done, size)` makes the kernel's struct for `size` bytes
// after `done` bytes, and `progress` is its member for the bytes that are done or an error below 0.
// Passes over pages that are there.
template <class Request>
Status populate(const UniqueFd& userfaultfd, unsigned long number, std::span<std::byte> range, const auto& request,
                __s64 Request::* progress, std::string_view name, std::string_view object) {
    std::size_t most = range.size();
    for (std::size_t done = 0; done < range.size();) {
        const std::size_t size = std::min(most, range.size() - done);
        Request part = request(done, size);
        if (::ioctl(userfaultfd.get(), number, &part) == 0) {
            done += size;
            continue;
        }
        const int error = errno;
        if (part.*progress > 0) {
            done += static_cast<std::size_t>(part.*progress);
        } else if (error == EEXIST) {
            // The thread that waits for this page may have come after the page was populated.
            if (Status woken = wake_faults(userfaultfd, range.subspan(done, kPageSize), object); !woken) {
                return woken;
            }
            done += kPageSize;
        } else if (error == ENOENT && size > kPageSize) {
            most = align_up(size / 2, kPageSize);  // one call takes pages of one mapping only
        } else if (error != EAGAIN && error != EINTR) {
            return fail(Error::system(name, object, error));
        }
    }
    return {};
}

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
        return fail(Error::system("UFFDIO_API", "", lacking ? EINVAL : errno));
    }
    return api.features & ~hidden;
}

Status register_faults(const UniqueFd& userfaultfd, std::span<std::byte> range, FaultKinds kinds,
                       std::string_view object) {
    uffdio_register request{kernel_range(range), kinds.bits(), 0};
    return call(userfaultfd, UFFDIO_REGISTER, request, "UFFDIO_REGISTER", object);
}

Status unregister_faults(const UniqueFd& userfaultfd, std::span<std::byte> range, std::string_view object) {
    uffdio_range request = kernel_range(range);
    return call(userfaultfd, UFFDIO_UNREGISTER, request, "UFFDIO_UNREGISTER", object);
}

Status wake_faults(const UniqueFd& userfaultfd, std::span<std::byte> range, std::string_view object) {
    uffdio_range request = kernel_range(range);
    return call(userfaultfd, UFFDIO_WAKE, request, "UFFDIO_WAKE", object);
}

Status protect_pages(const UniqueFd& userfaultfd, std::span<std::byte> range, bool on, std::string_view object) {
    uffdio_writeprotect request{kernel_range(range), on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return call(userfaultfd, UFFDIO_WRITEPROTECT, request, "UFFDIO_WRITEPROTECT", object);
}

Status copy_pages(const UniqueFd& userfaultfd, std::span<std::byte> range, std::span<const std::byte> data,
                  bool protect, std::string_view object) {
    const auto part = [&](std::size_t done, std::size_t size) {
        return uffdio_copy{address(range.data() + done), address(data.data() + done), size,
                           protect ? UFFDIO_COPY_MODE_WP : 0, 0};
    };
    return populate(userfaultfd, UFFDIO_COPY, range, part, &uffdio_copy::copy, "UFFDIO_COPY", object);
}

Status map_present_pages(const UniqueFd& userfaultfd, std::span<std::byte> range, bool protect,
                         std::string_view object) {
    const auto part = [&](std::size_t done, std::size_t size) {
        return uffdio_continue{kernel_range(range.subspan(done, size)), protect ? kContinueProtected : 0, 0};
    };
    return populate(userfaultfd, UFFDIO_CONTINUE, range, part, &uffdio_continue::mapped, "UFFDIO_CONTINUE", object);
}

void hide_userfaultfd_features(std::uint64_t features) { hidden = features; }

}  // namespace snapvm
