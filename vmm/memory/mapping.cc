// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <limits>
#include <string>

#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {
namespace {

// Reserves `size` bytes at a multiple of `alignment`, without access. mmap itself aligns to 4 KiB only, so a larger range is taken
// and its ends are given back.
Result<std::byte*> reserve(std::uint64_t size, std::uint64_t alignment) {
    const std::uint64_t slack = alignment > kPageSize ? alignment : 0;
    const bool countable = size <= std::numeric_limits<std::uint64_t>::max() - slack;
    errno = ENOMEM;
    void* raw =
        countable ? ::mmap(nullptr, size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) : MAP_FAILED;
    if (raw == MAP_FAILED) {
        return fail(Error::system("mmap", "guest memory of " + std::to_string(size >> 20) + " MiB", errno,
                                  "ask for less memory or raise the address space limit (ulimit -v)"));
    }
    auto* start = static_cast<std::byte*>(raw);
    const auto address = reinterpret_cast<std::uintptr_t>(raw);
    const std::uint64_t head = align_up(address, alignment) - address;
    if (head > 0) {
        ::munmap(start, head);
    }
    if (slack > head) {
        ::munmap(start + head + size, slack - head);
    }
    return start + head;
}

Status map_over(std::byte* at, std::uint64_t size, int protection, int flags, int fd, std::uint64_t offset) {
    void* mapped = ::mmap(at, size, protection, flags | MAP_FIXED, fd, static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) {
        const int error = errno;
        ::munmap(at, size);
        return fail(Error::system("mmap", "guest memory of " + std::to_string(size >> 20) + " MiB", error));
    }
    return {};
}

}  // namespace

Result<Mapping> Mapping::anonymous(std::uint64_t size, std::uint64_t alignment) {
    std::byte* at = TRY(reserve(size, alignment));
    TRY(map_over(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    return Mapping(at, size);
}

Result<Mapping> Mapping::of_file(int fd, std::uint64_t offset, std::uint64_t size, std::uint64_t alignment, bool shared,
                                 bool writable) {
    std::byte* at = TRY(reserve(size, alignment));
    const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
    TRY(map_over(at, size, protection, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE, fd, offset));
    return Mapping(at, size);
}

void Mapping::reset() {
    if (address_ != nullptr) {
        ::munmap(address_, size_);
        address_ = nullptr;
        size_ = 0;
    }
}

}  // namespace snapvm
