// SPDX-License-Identifier: Apache-2.0
// Translates a guest's linear addresses by its page tables. Source: Intel SDM volume 3, chapter 4
// (paging), 4.6 (access rights), 4.7 (page fault error code).
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>

#include "vmm/kvm/abi.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::emulate {

/// The registers that decide how a linear address is translated.
struct PagingMode {
    std::uint64_t cr0 = 0;
    std::uint64_t cr3 = 0;
    std::uint64_t cr4 = 0;
    std::uint64_t efer = 0;

    static PagingMode of(const kvm_sregs& sregs) { return {sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer}; }
};

/// The kind of an access to a page.
struct Access {
    bool write = false;
    bool fetch = false;
    bool user = false;  ///< made at CPL 3
    bool user_pages_open = true;  ///< a supervisor's data access may use user pages in spite of SMAP (RFLAGS.AC)
};

/// The #PF that the processor would raise: its error code and CR2.
struct PageFault {
    std::uint64_t address = 0;
    std::uint32_t error_code = 0;
};

/// Returns whether an address is canonical: in long mode its upper bits are copies of the highest
/// translated bit (Intel SDM volume 1, 3.3.7.1).
[[nodiscard]] bool is_canonical(std::uint64_t address, const PagingMode& mode);

/// Walks page tables with two levels, PAE, four or five levels, or no paging. The tables are
/// untrusted: they may lie anywhere and form cycles, and the number of levels bounds the walk.
/// Protection keys and reserved bits are not checked, since no kernel's own accesses depend on
/// them. Addresses must be canonical, since others raise a different fault; look_up and peek accept
/// any. The object refers to the memory, and keeps the register values of its construction. One
/// thread at a time uses it.
class AddressSpace {
public:
    AddressSpace(GuestMemory& memory, const PagingMode& mode) : memory_(memory), mode_(mode) {}

    /// Translates an address without checks of access rights, and sets no accessed or dirty bits.
    /// Fails if the address is not mapped or not canonical. The result may not be memory.
    [[nodiscard]] std::expected<Gpa, PageFault> look_up(std::uint64_t linear) const;
    /// Copies out the bytes that can be read from `linear` on, without checks of rights. Returns
    /// how many.
    [[nodiscard]] std::size_t peek(std::uint64_t linear, std::span<std::byte> out) const;

    /// Reads or writes as an instruction does: checks rights, and sets accessed and dirty bits. If
    /// a page of the range faults, nothing is transferred.
    std::expected<void, PageFault> read(std::uint64_t linear, std::span<std::byte> out, Access access);
    std::expected<void, PageFault> write(std::uint64_t linear, std::span<const std::byte> data, Access access);
    /// A range of guest memory.
    struct Located {
        Gpa at;
        std::span<std::byte> bytes;  ///< empty: the address is not memory
    };
    /// Locates [linear, linear + size), which must lie within one page, for an atomic access. After
    /// a write the caller calls mark_written with the result. It must not translate again, since
    /// the address may be mapped elsewhere by then.
    std::expected<Located, PageFault> span(std::uint64_t linear, std::uint64_t size, Access access);
    void mark_written(const Located& written) { memory_.mark_written(written.at, written.bytes.size()); }

private:
    enum class Purpose : std::uint8_t { looking, access };
    std::expected<Gpa, PageFault> walk(std::uint64_t linear, Access access, Purpose purpose) const;
    std::optional<std::expected<Gpa, PageFault>> walk_once(std::uint64_t linear, Access access, Purpose purpose) const;
    template <class Part>
    std::expected<void, PageFault> by_page(std::uint64_t linear, std::uint64_t size, Access access, Part part);

    GuestMemory& memory_;
    PagingMode mode_;
};

}  // namespace snapvm::emulate
