// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/block.h"

#include <sys/mman.h>

#include <cerrno>
#include <string>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

std::uint64_t host_alignment(const BlockSpec& spec) { return spec.size >= kHugePageSize ? kHugePageSize : kPageSize; }

// Advice only: a kernel without huge pages refuses it, and nothing is lost but speed.
void advise_huge(std::byte* at, std::uint64_t size) { (void)::madvise(at, size, MADV_HUGEPAGE); }

}  // namespace

std::string_view name_of(BlockId id) {
    switch (id) {
        case BlockId::ram_low: return "ram-low";
        case BlockId::ram_high: return "ram-high";
        case BlockId::firmware: return "firmware";
        case BlockId::vmgenid: return "vmgenid";
    }
    return "unknown";
}

MemoryBlock::MemoryBlock(BlockSpec spec, Backing backing, Mapping mapping, PageTypes types, WriteMarks marks)
    : spec_(spec), backing_(backing), mapping_(std::move(mapping)), types_(std::move(types)), marks_(std::move(marks)) {}

Result<MemoryBlock> MemoryBlock::of(const BlockSpec& spec, Backing backing, Mapping mapping) {
    return MemoryBlock(spec, backing, std::move(mapping), TRY(PageTypes::of(spec.pages())), TRY(WriteMarks::of(spec.pages())));
}

Result<MemoryBlock> MemoryBlock::anonymous(const BlockSpec& spec, PagePolicy policy) {
    Mapping mapping = TRY(Mapping::anonymous(spec.size, host_alignment(spec)));
    if (policy == PagePolicy::small_pages) {
        (void)::madvise(mapping.data(), spec.size, MADV_NOHUGEPAGE);
    } else if (spec.size >= kHugePageSize) {
        advise_huge(mapping.data(), spec.size);
    }
    return of(spec, Backing::anonymous, std::move(mapping));
}

Result<MemoryBlock> MemoryBlock::memfd(const BlockSpec& spec) {
    const std::string name(name_of(spec.id));
    UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC));
    if (!fd.valid()) {
        return fail(Error::system("memfd_create", name, errno));
    }
    if (::ftruncate(fd.get(), static_cast<off_t>(spec.size)) != 0) {
        return fail(Error::system("ftruncate", name, errno));
    }
    Mapping mapping = TRY(Mapping::of_file(fd.get(), 0, spec.size, host_alignment(spec), /*shared=*/true));
    MemoryBlock block = TRY(of(spec, Backing::memfd, std::move(mapping)));
    block.memfd_ = std::move(fd);
    return block;
}

Result<MemoryBlock> MemoryBlock::snapshot(const BlockSpec& spec, int fd, std::uint64_t offset,
                                          std::shared_ptr<const PageOrigin> origin) {
    Mapping mapping = TRY(Mapping::of_file(fd, offset, spec.size, host_alignment(spec), /*shared=*/false));
    MemoryBlock block = TRY(of(spec, Backing::snapshot, std::move(mapping)));
    block.origin_ = std::move(origin);
    return block;
}

Status MemoryBlock::overlay_anonymous(std::uint64_t first, std::uint64_t count) {
    if (first > spec_.pages() || count > spec_.pages() - first) {
        return fail(ErrorKind::invalid, "overlay outside of block " + std::string(name_of(spec_.id)));
    }
    std::byte* at = host() + first * kPageSize;
    const std::uint64_t size = count * kPageSize;
    void* mapped = ::mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) {
        return fail(Error::system("mmap", "overlay of " + std::string(name_of(spec_.id)), errno));
    }
    advise_huge(at, size);
    return {};
}

}  // namespace snapvm
