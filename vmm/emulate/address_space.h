// SPDX-License-Identifier: Apache-2.0
// A guest's linear addresses, through its own page tables. Source: Intel SDM volume 3, chapter 4 (paging), 4.6 (access rights), 4.7 (page
// fault's error code).
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

/// Who wants what of a page.
struct Access {
    bool write = false;
    bool fetch = false;
    bool user = false;  ///< by CPL 3
    bool user_pages_open = true;  ///< a supervisor's data access may go to user pages under SMAP (RFLAGS.AC)
};

/// What the processor would raise: #PF with this error code and CR2.
struct PageFault {
    std::uint64_t address = 0;
    std::uint32_t error_code = 0;
};

/// Whether an address is one at all: in long mode its upper bits are copies of the highest that counts (Intel SDM volume 1, 3.3.7.1).
[[nodiscard]] bool is_canonical(std::uint64_t address, const PagingMode& mode);

/// Walks page tables: two levels, PAE, four or five, or none. Untrusted: tables may lie anywhere and form circles, the number of levels bounds
/// the walk. Left out: protection keys and reserved bits, which no kernel's own accesses depend on. Addresses must be canonical, but for looking:
/// their fault is another. Holds a reference to the memory; values of the registers at construction. One thread at a time.
class AddressSpace {
public:
    AddressSpace(GuestMemory& memory, const PagingMode& mode) : memory_(memory), mode_(mode) {}

    /// For looking only: no access rights, no accessed and dirty bits. Nothing where nothing is mapped, or the address is not canonical; there
    /// may be no memory where it leads.
    [[nodiscard]] std::expected<Gpa, PageFault> look_up(std::uint64_t linear) const;
    /// Copies out what can be read from there, without rights; how many bytes that was.
    [[nodiscard]] std::size_t peek(std::uint64_t linear, std::span<std::byte> out) const;

    /// As an instruction's access: rights are checked, accessed and dirty bits are set. All or nothing over page boundaries.
    std::expected<void, PageFault> read(std::uint64_t linear, std::span<std::byte> out, Access access);
    std::expected<void, PageFault> write(std::uint64_t linear, std::span<const std::byte> data, Access access);
    /// Guest memory in place.
    struct Located {
        Gpa at;
        std::span<std::byte> bytes;  ///< empty: that address is no memory of the guest's
    };
    /// [linear, linear + size), which must lie within one page, for an atomic access. The caller marks what it writes, by the address found here:
    /// looked up again it may be another.
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
