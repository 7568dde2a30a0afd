// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/write_protector.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <system_error>

#include "vmm/base/try.h"
#include "vmm/memory/userfaultfd.h"

namespace snapvm {
namespace {

std::unexpected<Error> refused(std::string_view call, int error) {
    return fail(ErrorKind::unsupported,
                "pages cannot be write-protected (" + std::string(call) + ": " + std::generic_category().message(error) + ")",
                "see snapvm doctor, userfaultfd");
}

}  // namespace

Result<WriteProtector> WriteProtector::over(std::span<const MemoryBlock> blocks) {
    auto opened = open_userfaultfd();
    if (!opened) {
        return refused("userfaultfd", opened.error().code());
    }
    WriteProtector protector(blocks, std::move(opened->fd));
    // A page that was given up has nothing that could be protected, unless the kernel keeps a marker in its place. Otherwise all pages
    // that were ever written are there, and markers for the rest would cost page tables.
    const bool given_up = std::ranges::any_of(blocks, [](const MemoryBlock& block) { return block.types().touched(); });
    const auto agreed =
        agree_on_features(protector.fd_, UFFD_FEATURE_PAGEFAULT_FLAG_WP | (given_up ? kUffdProtectsUnpopulated : 0));
    if (!agreed && given_up) {
        return fail(ErrorKind::unsupported, "this kernel cannot write-protect memory of which a balloon has taken some",
                    "use Linux 6.4 or newer; see snapvm doctor, userfaultfd");
    }
    if (!agreed) {
        return refused("UFFDIO_API", agreed.error().code());
    }
    for (const MemoryBlock& block : blocks) {
        uffdio_register range{};
        range.range = {reinterpret_cast<std::uintptr_t>(block.host()), block.spec().size};
        range.mode = UFFDIO_REGISTER_MODE_WP;
        if (::ioctl(protector.fd_.get(), UFFDIO_REGISTER, &range) != 0) {
            return refused("UFFDIO_REGISTER of block " + std::string(name_of(block.spec().id)), errno);
        }
    }
    return protector;
}

void WriteProtector::lift() {
    if (!fd_.valid()) {
        return;
    }
    for (const MemoryBlock& block : blocks_) {
        uffdio_range range{reinterpret_cast<std::uintptr_t>(block.host()), block.spec().size};
        // Lifts the protection and wakes who waits. It fails only where `over` got no further, and there nothing is protected.
        (void)::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range);
    }
}

Status WriteProtector::set(std::size_t block, std::uint64_t first, std::uint64_t count, std::uint64_t mode) {
    uffdio_writeprotect request{};
    request.range = {reinterpret_cast<std::uintptr_t>(blocks_[block].host()) + first * kPageSize, count * kPageSize};
    request.mode = mode;
    while (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request) != 0) {
        if (errno != EAGAIN && errno != EINTR) {
            return fail(Error::system("UFFDIO_WRITEPROTECT", std::string(name_of(blocks_[block].spec().id)), errno));
        }
    }
    return {};
}

Status WriteProtector::protect(std::size_t block, std::uint64_t first, std::uint64_t count) {
    return set(block, first, count, UFFDIO_WRITEPROTECT_MODE_WP);
}

Status WriteProtector::release(std::size_t block, std::uint64_t first, std::uint64_t count) { return set(block, first, count, 0); }

Result<std::optional<WriteProtector::Fault>> WriteProtector::next_fault(int stop) {
    while (true) {
        std::array<pollfd, 2> ready{{{fd_.get(), POLLIN, 0}, {stop, POLLIN, 0}}};
        if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) {
            return fail(Error::system("poll", "userfaultfd", errno));
        }
        if ((ready[1].revents & POLLIN) != 0) {
            return std::nullopt;
        }
        uffd_msg message{};
        const ssize_t got = ::read(fd_.get(), &message, sizeof message);
        if (got < 0 && errno != EAGAIN && errno != EINTR) {
            return fail(Error::system("read", "userfaultfd", errno));
        }
        if (got != sizeof message || message.event != UFFD_EVENT_PAGEFAULT) {
            continue;
        }
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            const std::uint64_t offset = message.arg.pagefault.address - reinterpret_cast<std::uintptr_t>(blocks_[i].host());
            if (offset < blocks_[i].spec().size) {
                return Fault{i, offset / kPageSize};
            }
        }
    }
}

}  // namespace snapvm
