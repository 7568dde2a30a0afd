// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "vmm/base/try.h"

namespace snapvm {
namespace {

std::uint64_t host_alignment(const BlockSpec& spec) { return spec.size >= kHugePageSize ? kHugePageSize : kPageSize; }

// Only advice: a kernel without huge pages refuses it, and the guest is slower.
void advise_huge(std::byte* at, std::uint64_t size) { (void)::madvise(at, size, MADV_HUGEPAGE); }

void advise(const Mapping& mapping, PagePolicy policy) {
    if (policy == PagePolicy::small_pages) {
        (void)::madvise(mapping.data(), mapping.size(), MADV_NOHUGEPAGE);
    } else if (mapping.size() >= kHugePageSize) {
        advise_huge(mapping.data(), mapping.size());
    }
}

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

std::string unreadable_text(const PageOrigin& origin) {
    return "the snapshot " + std::string(origin.name()) +
           " cannot be read any more: its file was cut short or overwritten, or its disk failed";
}

Result<ReservedBlock> ReservedBlock::of(const BlockSpec& spec) {
    return ReservedBlock{spec, TRY(Mapping::reserve(spec.size, host_alignment(spec)))};
}

Result<std::vector<ReservedBlock>> ReservedBlock::all_of(std::span<const BlockSpec> specs) {
    std::vector<ReservedBlock> blocks;
    for (const BlockSpec& spec : specs) {
        blocks.push_back(TRY(of(spec)));
    }
    return blocks;
}

MemoryBlock::MemoryBlock(BlockSpec spec, Backing backing, Mapping mapping, PageTypes types, WriteMarks marks)
    : spec_(spec),
      backing_(backing),
      mapping_(std::move(mapping)),
      types_(std::move(types)),
      marks_(std::move(marks)) {}

Result<MemoryBlock> MemoryBlock::of(const BlockSpec& spec, Backing backing, Mapping mapping) {
    return MemoryBlock(spec, backing, std::move(mapping), TRY(PageTypes::of(spec.pages())),
                       TRY(WriteMarks::of(spec.pages())));
}

Result<MemoryBlock> MemoryBlock::anonymous(const BlockSpec& spec, PagePolicy policy) {
    Mapping mapping = TRY(Mapping::anonymous(spec.size, host_alignment(spec)));
    advise(mapping, policy);
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

Result<MemoryBlock> MemoryBlock::snapshot(ReservedBlock reserved, int fd, std::uint64_t offset,
                                          std::shared_ptr<const PageOrigin> origin) {
    TRY(reserved.addresses.map_file(fd, offset, /*shared=*/false));
    const std::uint64_t pages = reserved.spec.pages();
    MemoryBlock block = TRY(of(reserved.spec, Backing::snapshot, std::move(reserved.addresses)));
    block.origin_ = std::move(origin);
    block.emptied_ = std::make_unique<std::atomic<bool>[]>((pages + kUnitPages - 1) / kUnitPages);
    return block;
}

Status MemoryBlock::overlay_anonymous(std::uint64_t first, std::uint64_t count) {
    if (first > spec_.pages() || count > spec_.pages() - first) {
        return fail(ErrorKind::invalid, "the overlay is outside of block " + std::string(name_of(spec_.id)));
    }
    std::byte* at = host() + first * kPageSize;
    const std::uint64_t size = count * kPageSize;
    void* mapped =
        ::mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) {
        return fail(Error::system("mmap", "overlay of " + std::string(name_of(spec_.id)), errno));
    }
    advise_huge(at, size);
    overlays_.push_back({first, count});
    return {};
}

bool MemoryBlock::overlaid(std::uint64_t first, std::uint64_t count) const {
    return std::ranges::any_of(overlays_, [&](const Overlay& overlay) {
        return first >= overlay.first && first + count <= overlay.first + overlay.count;
    });
}

Status MemoryBlock::share(const SharedRun& run, int fd, std::uint64_t offset) {
    if (run.first > spec_.pages() || run.count > spec_.pages() - run.first || !origin_) {
        return fail(ErrorKind::invalid, "the shared pages are outside of block " + std::string(name_of(spec_.id)));
    }
    std::byte* at = host() + run.first * kPageSize;
    void* mapped = ::mmap(at, run.count * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
                          fd, static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) {
        return fail(Error::system("mmap", "shared pages of " + std::string(name_of(spec_.id)), errno));
    }
    shared_.insert(std::ranges::upper_bound(shared_, run.first, {}, &SharedRun::first), run);
    return {};
}

Status MemoryBlock::read_untouched(std::uint64_t first, std::span<std::byte> out) const {
    while (!out.empty()) {
        std::uint64_t count = out.size() / kPageSize;
        BlockId from = spec_.id;
        std::uint64_t page = first;
        const auto run = std::ranges::find_if(shared_, [&](const SharedRun& r) { return first < r.first + r.count; });
        if (run != shared_.end() && first < run->first) {
            count = std::min(count, run->first - first);
        } else if (run != shared_.end()) {
            count = std::min(count, run->first + run->count - first);
            from = run->source;
            page = run->source_first + (first - run->first);
        }
        TRY(origin_->read_data(from, page, out.first(count * kPageSize)));
        first += count;
        out = out.subspan(count * kPageSize);
    }
    return {};
}

Result<Mapping> MemoryBlock::space_for_copy() const {
    Mapping copy = TRY(Mapping::anonymous(spec_.size, host_alignment(spec_)));
    // A huge page for the first page written would populate its neighbours, too, and they may be
    // pages without data.
    advise(copy, PagePolicy::small_pages);
    return copy;
}

Status MemoryBlock::replace(std::uint64_t first, std::uint64_t count, const Mapping& copy) {
    if (first > spec_.pages() || count > spec_.pages() - first || copy.size() != spec_.size) {
        return fail(ErrorKind::invalid, "the replacement is outside of block " + std::string(name_of(spec_.id)));
    }
    std::byte* to = host() + first * kPageSize;
    std::byte* from = copy.data() + first * kPageSize;
    const std::uint64_t size = count * kPageSize;
    // DONTUNMAP: the owner of `copy` unmaps its whole range at the end. Without the flag another
    // mapping could be placed into the range before that.
    if (::mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != MAP_FAILED) {
        return {};
    }
    // mremap may have unmapped the target before it failed for lack of memory, but it moved
    // nothing. So the target is mapped again and the bytes are copied.
    void* mapped =
        ::mmap(to, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) {
        return fail(Error::system("mremap", "block " + std::string(name_of(spec_.id)), errno));
    }
    std::memcpy(to, from, size);
    return {};
}

void MemoryBlock::let_go_of_origin(PagePolicy policy) {
    const DiscardGate::Hold hold(gate_);  // discard reads the origin, under a pass of the gate
    if (origin_) {
        advise(mapping_, policy);
        origin_.reset();
        overlays_.clear();
        shared_.clear();
        backing_ = Backing::anonymous;
    }
}

}  // namespace snapvm
