// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <limits>
#include <string>

#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {

// mmap aligns to 4 KiB only, so this maps a larger range and unmaps its ends.
Result<Mapping> Mapping::reserve(std::uint64_t size, std::uint64_t alignment) {
    const std::uint64_t slack = alignment > kPageSize ? alignment : 0;
    const bool countable = size <= std::numeric_limits<std::uint64_t>::max() - slack;
    errno = ENOMEM;
    void* raw = countable ? ::mmap(nullptr, size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                          : MAP_FAILED;
    if (raw == MAP_FAILED) {
        return fail(Error::system("mmap", "guest memory of " + std::to_string(size >> 20) + " MiB", errno,
                                  "give the machine less memory, or raise the limit of address space (ulimit -v)"));
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
    return Mapping(start + head, size);
}

Status Mapping::map_over(int protection, int flags, int fd, std::uint64_t offset) {
    if (::mmap(address_, size_, protection, flags | MAP_NORESERVE | MAP_FIXED, fd, static_cast<off_t>(offset)) ==
        MAP_FAILED) {
        return fail(Error::system("mmap", "guest memory of " + std::to_string(size_ >> 20) + " MiB", errno));
    }
    return {};
}

Result<Mapping> Mapping::anonymous(std::uint64_t size, std::uint64_t alignment) {
    Mapping mapping = TRY(reserve(size, alignment));
    TRY(mapping.map_over(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    return mapping;
}

Result<Mapping> Mapping::of_file(int fd, std::uint64_t offset, std::uint64_t size, std::uint64_t alignment, bool shared,
                                 bool writable) {
    Mapping mapping = TRY(reserve(size, alignment));
    TRY(mapping.map_file(fd, offset, shared, writable));
    return mapping;
}

Status Mapping::map_file(int fd, std::uint64_t offset, bool shared, bool writable) {
    return map_over(PROT_READ | (writable ? PROT_WRITE : 0), shared ? MAP_SHARED : MAP_PRIVATE, fd, offset);
}

void Mapping::reset() {
    if (address_ != nullptr) {
        ::munmap(address_, size_);
        address_ = nullptr;
        size_ = 0;
    }
}

}  // namespace snapvm
