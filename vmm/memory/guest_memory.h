// SPDX-License-Identifier: Apache-2.0
// All memory of a machine. Every address that comes from a guest or a file is checked here.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/memory/block.h"

namespace snapvm {

class FaultService;

/// The blocks of one machine, in block-list order. The list is fixed once built. Accesses by the
/// guest and by the VMM race, so the VMM copies each value out once, checks the copy, and never
/// reads the value again.
class GuestMemory {
public:
    GuestMemory();
    GuestMemory(GuestMemory&&) noexcept;
    GuestMemory& operator=(GuestMemory&&) noexcept;
    GuestMemory(const GuestMemory&) = delete;
    GuestMemory& operator=(const GuestMemory&) = delete;
    ~GuestMemory();

    /// Fails with invalid if a block is empty or not page-aligned, if blocks overlap, or if an id
    /// occurs twice.
    static Result<GuestMemory> of(std::vector<MemoryBlock> blocks);

    [[nodiscard]] std::span<MemoryBlock> blocks() { return blocks_; }
    [[nodiscard]] std::span<const MemoryBlock> blocks() const { return blocks_; }
    /// Returns the block, or nullptr if the machine has none with that id.
    [[nodiscard]] MemoryBlock* find(BlockId id);
    /// Returns the service that answers page faults of this memory. It stays where it is when the
    /// memory is moved. Memory that is empty or was moved away has none.
    [[nodiscard]] FaultService& faults() const { return *faults_; }
    /// Ends all uses of the service, if there is one, so that no thread waits in a page fault. The
    /// owner of threads that use this memory calls it before it joins them.
    void end_faults() const;

    /// Returns the host bytes of [at, at + size). Fails with invalid if the range is not within one
    /// block.
    Result<std::span<std::byte>> span(Gpa at, std::uint64_t size) const;

    /// Copies guest memory out. The range may cross into an adjacent block. Fails with invalid if a
    /// part of it is not memory; `out` may be partly filled then.
    Status read(Gpa at, std::span<std::byte> out) const;
    /// Copies into guest memory and marks the pages. If a part of the range is not memory, fails
    /// with invalid and writes nothing. All writes of the VMM use this, or a `span` and
    /// `mark_written`, so that snapshots see them.
    Status write(Gpa at, std::span<const std::byte> data);
    /// Marks pages that were written through a `span` (by a disk's read, or a store with an order
    /// of its own). The caller calls it after the bytes arrived: a mark at submission can be
    /// collected before the data is there, and the data that arrives after the copy is lost. Marks
    /// only within the block that contains `at`; does nothing if no block does.
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
    explicit GuestMemory(std::vector<MemoryBlock> blocks);
    std::vector<MemoryBlock> blocks_;
    std::unique_ptr<FaultService> faults_;  ///< has the address of the vector's elements, which a move keeps
};

}  // namespace snapvm
