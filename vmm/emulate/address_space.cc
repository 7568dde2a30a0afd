// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/address_space.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "vmm/kvm/x86.h"

namespace snapvm::emulate {
namespace {

using namespace x86;

constexpr std::uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 1ULL << 5, kDirty = 1ULL << 6,
                        kLarge = 1ULL << 7;
constexpr std::uint64_t kNoExecute = 1ULL << 63;
constexpr std::uint64_t kFrame = 0x000F'FFFF'FFFF'F000;

// How paging divides an address into indices.
struct Shape {
    int levels = 0;
    int index_bits = 9;
    std::uint64_t entry_size = 8;
    int top_index_bits = 9;
};

Shape shape_of(const PagingMode& mode) {
    if ((mode.efer & kEferLongModeActive) != 0) {
        return {.levels = (mode.cr4 & kCr4FiveLevels) != 0 ? 5 : 4};
    }
    if ((mode.cr4 & kCr4Pae) != 0) {
        return {.levels = 3, .top_index_bits = 2};
    }
    return {.levels = 2, .index_bits = 10, .entry_size = 4, .top_index_bits = 10};
}

std::uint32_t error_code(const PagingMode& mode, Access access, bool present) {
    const bool tells_fetch = (mode.efer & kEferNoExecute) != 0 || (mode.cr4 & kCr4Smep) != 0;
    return (present ? kFaultPresent : 0) | (access.write ? kFaultWrite : 0) | (access.user ? kFaultUser : 0) |
           (access.fetch && tells_fetch ? kFaultFetch : 0);
}

// `rights` combines all levels: kNoExecute if any level has it, the others if all levels have them.
bool allowed(const PagingMode& mode, Access access, std::uint64_t rights) {
    const bool user_page = (rights & kUser) != 0;
    if (access.fetch) {
        const bool no_execute = (mode.efer & kEferNoExecute) != 0 && (rights & kNoExecute) != 0;
        const bool kept_out = access.user ? !user_page : user_page && (mode.cr4 & kCr4Smep) != 0;
        return !no_execute && !kept_out;
    }
    if (access.user) {
        return user_page && (!access.write || (rights & kWritable) != 0);
    }
    if (user_page && (mode.cr4 & kCr4Smap) != 0 && !access.user_pages_open) {
        return false;
    }
    return !access.write || (rights & kWritable) != 0 || (mode.cr0 & kCr0WriteProtect) == 0;
}

// Sets bits in an entry. Returns false if the entry has changed since it was read: another vCPU may
// be unmapping the page.
bool add_bits(GuestMemory& memory, Gpa at, std::uint64_t entry_size, std::uint64_t entry, std::uint64_t bits) {
    const auto bytes = memory.span(at, entry_size);
    if (!bytes) {
        return false;
    }
    bool done = false;
    if (entry_size == 8) {
        done = std::atomic_ref(*reinterpret_cast<std::uint64_t*>(bytes->data()))
                   .compare_exchange_strong(entry, entry | bits);
    } else {
        auto half = static_cast<std::uint32_t>(entry);
        const auto with = static_cast<std::uint32_t>(entry | bits);
        done = std::atomic_ref(*reinterpret_cast<std::uint32_t*>(bytes->data())).compare_exchange_strong(half, with);
    }
    if (done) {
        memory.mark_written(at, entry_size);
    }
    return done;
}

}  // namespace

bool is_canonical(std::uint64_t address, const PagingMode& mode) {
    if ((mode.efer & kEferLongModeActive) == 0) {
        return true;
    }
    const auto upper = static_cast<std::int64_t>(address) >> ((mode.cr4 & kCr4FiveLevels) != 0 ? 56 : 47);
    return upper == 0 || upper == -1;
}

std::expected<Gpa, PageFault> AddressSpace::walk(std::uint64_t linear, Access access, Purpose purpose) const {
    constexpr int kAttempts = 16;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        if (const auto found = walk_once(linear, access, purpose)) {
            return *found;
        }
    }
    // The guest retries after the fault.
    return std::unexpected(PageFault{linear, error_code(mode_, access, false)});
}

// Returns nothing if an entry changed during the walk.
std::optional<std::expected<Gpa, PageFault>> AddressSpace::walk_once(std::uint64_t linear, Access access,
                                                                     Purpose purpose) const {
    if ((mode_.cr0 & kCr0Paging) == 0) {
        return Gpa{linear & 0xFFFF'FFFF};
    }
    const Shape shape = shape_of(mode_);
    const auto fault = [&](bool present) {
        return std::unexpected(PageFault{linear, error_code(mode_, access, present)});
    };
    std::uint64_t rights = kWritable | kUser;
    Gpa table{mode_.cr3 & (shape.levels == 3 ? 0xFFFF'FFE0ULL : kFrame)};
    for (int level = shape.levels; level > 0; --level) {
        const int shift = 12 + shape.index_bits * (level - 1);
        const int bits = level == shape.levels ? shape.top_index_bits : shape.index_bits;
        const Gpa at = table + ((linear >> shift) & ((1ULL << bits) - 1)) * shape.entry_size;
        std::uint64_t entry = 0;
        if (!memory_.read(at, std::as_writable_bytes(std::span(&entry, 1)).first(shape.entry_size)) ||
            (entry & kPresent) == 0) {
            return fault(false);
        }
        const bool pae_top = shape.levels == 3 && level == 3;  // has no access rights
        if (!pae_top) {
            rights = (rights & (entry | kNoExecute) & (kWritable | kUser | kNoExecute)) | (entry & kNoExecute);
        }
        const bool may_be_large =
            shape.levels == 2 ? (mode_.cr4 & kCr4LargePages) != 0 : level <= (shape.levels > 3 ? 3 : 2);
        const bool leaf = level == 1 || (may_be_large && (entry & kLarge) != 0);
        if (leaf && purpose == Purpose::access && !allowed(mode_, access, rights)) {
            return fault(true);
        }
        const std::uint64_t marks = pae_top ? 0 : kAccessed | (leaf && access.write ? kDirty : 0);
        if (purpose == Purpose::access && (entry & marks) != marks &&
            !add_bits(memory_, at, shape.entry_size, entry, marks)) {
            return std::nullopt;
        }
        if (leaf) {
            const std::uint64_t within = (1ULL << shift) - 1;
            return Gpa{(entry & kFrame & ~within) | (linear & within)};
        }
        table = Gpa{entry & kFrame};
    }
    return fault(false);
}

std::expected<Gpa, PageFault> AddressSpace::look_up(std::uint64_t linear) const {
    if (!is_canonical(linear, mode_)) {
        return std::unexpected(PageFault{linear, 0});
    }
    return walk(linear, {}, Purpose::looking);
}

std::size_t AddressSpace::peek(std::uint64_t linear, std::span<std::byte> out) const {
    std::size_t done = 0;
    while (done < out.size()) {
        const std::size_t part = std::min<std::size_t>(out.size() - done, kPageSize - (linear + done) % kPageSize);
        const auto at = look_up(linear + done);
        if (!at || !memory_.read(*at, out.subspan(done, part))) {
            break;
        }
        done += part;
    }
    return done;
}

// Translates every page before the first byte moves, so that a fault leaves nothing half done.
template <class Part>
std::expected<void, PageFault> AddressSpace::by_page(std::uint64_t linear, std::uint64_t size, Access access,
                                                     Part part) {
    struct Piece {
        Gpa at;
        std::uint64_t offset, size;
    };
    std::vector<Piece> pieces;
    for (std::uint64_t done = 0; done < size;) {
        const std::uint64_t length = std::min(size - done, kPageSize - (linear + done) % kPageSize);
        const auto at = walk(linear + done, access, Purpose::access);
        if (!at) {
            return std::unexpected(at.error());
        }
        pieces.push_back({*at, done, length});
        done += length;
    }
    for (const Piece& piece : pieces) {
        part(piece.at, piece.offset, piece.size);
    }
    return {};
}

std::expected<void, PageFault> AddressSpace::read(std::uint64_t linear, std::span<std::byte> out, Access access) {
    return by_page(linear, out.size(), access, [&](Gpa at, std::uint64_t offset, std::uint64_t size) {
        const auto bytes = out.subspan(offset, size);
        if (!memory_.read(at, bytes)) {
            std::ranges::fill(bytes, std::byte{0xFF});  // not memory: reads as ones, like the bus
        }
    });
}

std::expected<void, PageFault> AddressSpace::write(std::uint64_t linear, std::span<const std::byte> data,
                                                   Access access) {
    access.write = true;
    return by_page(linear, data.size(), access, [&](Gpa at, std::uint64_t offset, std::uint64_t size) {
        (void)memory_.write(at, data.subspan(offset, size));  // not memory: the write is lost, as on the bus
    });
}

std::expected<AddressSpace::Located, PageFault> AddressSpace::span(std::uint64_t linear, std::uint64_t size,
                                                                   Access access) {
    const auto at = walk(linear, access, Purpose::access);
    if (!at) {
        return std::unexpected(at.error());
    }
    const auto bytes = memory_.span(*at, size);
    const bool within = bytes && linear % kPageSize + size <= kPageSize;
    return Located{*at, within ? *bytes : std::span<std::byte>{}};
}

}  // namespace snapvm::emulate
