// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_memory.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>

#include "vmm/base/try.h"
#include "vmm/memory/fault_service.h"

namespace snapvm {
namespace {

std::string describe(Gpa at, std::uint64_t size) {
    std::array<char, 80> text;
    std::snprintf(text.data(), text.size(), "guest address 0x%llx, %llu bytes",
                  static_cast<unsigned long long>(at.value), static_cast<unsigned long long>(size));
    return text.data();
}

bool wraps(Gpa at, std::uint64_t size) { return size > std::numeric_limits<std::uint64_t>::max() - at.value; }

// Returns the bytes from `at` to the end of its block, or nothing if `at` is in no block.
std::span<std::byte> tail_of_block(std::span<const MemoryBlock> blocks, Gpa at) {
    for (const MemoryBlock& block : blocks) {
        const BlockSpec& spec = block.spec();
        if (at >= spec.base && at - spec.base < spec.size) {
            return block.bytes().subspan(at - spec.base);
        }
    }
    return {};
}

// Called after the bytes are in memory (write_marks.h).
void mark_bytes(MemoryBlock& block, std::uint64_t offset, std::uint64_t count) {
    block.marks().mark(offset / kPageSize, (offset + count - 1) / kPageSize - offset / kPageSize + 1);
}

}  // namespace

GuestMemory::GuestMemory() = default;
GuestMemory::GuestMemory(GuestMemory&&) noexcept = default;
GuestMemory::~GuestMemory() = default;
GuestMemory::GuestMemory(std::vector<MemoryBlock> blocks)
    : blocks_(std::move(blocks)), faults_(std::make_unique<FaultService>(blocks_)) {}

GuestMemory& GuestMemory::operator=(GuestMemory&& other) noexcept {
    faults_ = std::move(other.faults_);  // first, because the service ends before its blocks do
    blocks_ = std::move(other.blocks_);
    return *this;
}

void GuestMemory::end_faults() const {
    if (faults_) {
        faults_->end();
    }
}

Result<GuestMemory> GuestMemory::of(std::vector<MemoryBlock> blocks) {
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const BlockSpec& a = blocks[i].spec();
        if (a.size == 0 || !is_page_aligned(a.size) || !is_page_aligned(a.base.value) || wraps(a.base, a.size)) {
            return fail(ErrorKind::invalid,
                        "memory block " + std::string(name_of(a.id)) + " has a bad address or size");
        }
        for (std::size_t j = 0; j < i; ++j) {
            const BlockSpec& b = blocks[j].spec();
            const bool overlap = a.base < b.base + b.size && b.base < a.base + a.size;
            if (overlap || a.id == b.id) {
                return fail(ErrorKind::invalid, "memory blocks " + std::string(name_of(a.id)) + " and " +
                                                    std::string(name_of(b.id)) +
                                                    (overlap ? " overlap" : " have the same id"));
            }
        }
    }
    return GuestMemory(std::move(blocks));
}

MemoryBlock* GuestMemory::find(BlockId id) {
    auto found = std::ranges::find_if(blocks_, [&](const MemoryBlock& block) { return block.spec().id == id; });
    return found == blocks_.end() ? nullptr : &*found;
}

Result<std::span<std::byte>> GuestMemory::span(Gpa at, std::uint64_t size) const {
    std::span<std::byte> tail = tail_of_block(blocks_, at);
    if (tail.size() < size || tail.empty()) {
        return fail(ErrorKind::invalid, describe(at, size) + ": the range is not within one memory block");
    }
    return tail.first(size);
}

Status GuestMemory::read(Gpa at, std::span<std::byte> out) const {
    if (wraps(at, out.size())) {
        return fail(ErrorKind::invalid, describe(at, out.size()) + ": the range wraps around");
    }
    while (!out.empty()) {
        const std::span<std::byte> from = tail_of_block(blocks_, at);
        if (from.empty()) {
            return fail(ErrorKind::invalid, describe(at, out.size()) + ": there is no memory");
        }
        const std::size_t count = std::min(from.size(), out.size());
        std::memcpy(out.data(), from.data(), count);
        out = out.subspan(count);
        at = at + count;
    }
    return {};
}

Status GuestMemory::write(Gpa at, std::span<const std::byte> data) {
    if (wraps(at, data.size())) {
        return fail(ErrorKind::invalid, describe(at, data.size()) + ": the range wraps around");
    }
    // Looks all of it up first, so that a failed write has written nothing.
    for (std::uint64_t done = 0; done < data.size();) {
        const std::size_t room = tail_of_block(blocks_, at + done).size();
        if (room == 0) {
            return fail(ErrorKind::invalid, describe(at, data.size()) + ": there is no memory");
        }
        done += room;
    }
    while (!data.empty()) {
        MemoryBlock& block = *std::ranges::find_if(
            blocks_, [&](const MemoryBlock& b) { return at >= b.spec().base && at - b.spec().base < b.spec().size; });
        const std::uint64_t offset = at - block.spec().base;
        const std::size_t count = std::min<std::uint64_t>(block.spec().size - offset, data.size());
        std::memcpy(block.host() + offset, data.data(), count);
        mark_bytes(block, offset, count);
        data = data.subspan(count);
        at = at + count;
    }
    return {};
}

void GuestMemory::mark_written(Gpa at, std::uint64_t size) {
    for (MemoryBlock& block : blocks_) {
        const BlockSpec& spec = block.spec();
        if (size > 0 && at >= spec.base && at - spec.base < spec.size) {
            const std::uint64_t offset = at - spec.base;
            mark_bytes(block, offset, std::min(spec.size - offset, size));
        }
    }
}

}  // namespace snapvm
