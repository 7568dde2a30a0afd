// SPDX-License-Identifier: Apache-2.0
// All of a machine's memory, and the only way to touch it on a guest's or a file's word.
#pragma once

#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

/// The blocks of one machine, in block-list order. Fixed once built; the VMM's and the guest's accesses to the bytes race by
/// nature, so everything the VMM decides on is copied out once and then checked (never read twice).
class GuestMemory {
public:
    GuestMemory() = default;

    /// Fails when blocks overlap, are not page-aligned, are empty, or an id comes twice.
    static Result<GuestMemory> of(std::vector<MemoryBlock> blocks);

    [[nodiscard]] std::span<MemoryBlock> blocks() { return blocks_; }
    [[nodiscard]] std::span<const MemoryBlock> blocks() const { return blocks_; }
    [[nodiscard]] MemoryBlock* find(BlockId id);

    /// The host bytes of [at, at + size), when they lie wholly within one block; an error otherwise, also for wrap-around.
    Result<std::span<std::byte>> span(Gpa at, std::uint64_t size) const;

    /// Copies guest memory out; may cross from one block into an adjacent one.
    Status read(Gpa at, std::span<std::byte> out) const;
    /// Copies into guest memory, all or nothing: every write of the VMM goes through here, so that it can be recorded.
    Status write(Gpa at, std::span<const std::byte> data);
    /// Records what came into a `span` by another way (a disk's read, a store of its own order): once it is there (traps.md: marked at
    /// submission, the data arrives after the copy). Bytes outside of memory are nobody's.
    void mark_written(Gpa at, std::uint64_t size);

    template <class T>
        requires std::is_trivially_copyable_v<T>
    Result<T> load(Gpa at) const {
        T value{};
        if (Status status = read(at, std::as_writable_bytes(std::span(&value, 1))); !status) {
            return fail(std::move(status).error());
        }
        return value;
    }
    template <class T>
        requires std::is_trivially_copyable_v<T>
    Status store(Gpa at, const T& value) {
        return write(at, std::as_bytes(std::span(&value, 1)));
    }

private:
    explicit GuestMemory(std::vector<MemoryBlock> blocks) : blocks_(std::move(blocks)) {}
    std::vector<MemoryBlock> blocks_;
};

}  // namespace snapvm
