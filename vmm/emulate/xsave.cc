// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/xsave.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>

namespace snapvm::emulate {
namespace {

constexpr std::uint64_t kX87 = 1, kSse = 2, kAvx = 4;
constexpr std::uint64_t kCompacted = 1ULL << 63;
constexpr std::uint32_t kMxcsrAt = 24, kMxcsrSize = 8, kXmmAt = 160, kXmmSize = 256;
constexpr std::uint32_t kHeaderAt = 512, kHeaderSize = 64;
constexpr unsigned kProtectionKeys = 9;
constexpr std::uint32_t kInitialMxcsr = 0x1F80;

struct Header {
    std::uint64_t present = 0;  // XSTATE_BV
    std::uint64_t compaction = 0;  // XCOMP_BV
    std::array<std::uint64_t, 6> reserved{};
};
static_assert(sizeof(Header) == kHeaderSize);

template <class T>
T load(std::span<const std::byte> image, std::uint32_t at) {
    T value{};
    std::memcpy(&value, image.data() + at, sizeof value);
    return value;
}

template <class T>
void store(std::span<std::byte> image, std::uint32_t at, const T& value) {
    std::memcpy(image.data() + at, &value, sizeof value);
}

// The parts of the legacy region that belong to x87: first control words and pointers, then the
// registers.
struct Range {
    std::uint32_t at, size;
};
constexpr std::array<Range, 2> kX87Ranges = {{{0, kMxcsrAt}, {32, 128}}};

// Returns whether `image`, which comes from KVM, is large enough for every component of XCR0.
bool image_holds(std::span<const std::byte> image, std::uint64_t components) {
    const XsaveLayout& layout = XsaveLayout::of_host();
    for (unsigned i = 2; i < layout.components.size(); ++i) {
        const auto& component = layout.components[i];
        if ((components >> i & 1) != 0 && (component.size == 0 || component.offset + component.size > image.size())) {
            return false;
        }
    }
    return image.size() >= kHeaderAt + kHeaderSize;
}

struct Prepared {
    std::vector<std::byte> image;
    std::uint64_t enabled = 0;  // XCR0
};

std::expected<Prepared, NotDone> prepare(std::uint64_t address, ExtendedState& state) {
    if (address % 64 != 0) {
        return raise(general_protection());
    }
    auto image = state.load();
    if (!image) {
        return host_failed(image.error());
    }
    const auto xcr0 = state.xcr0();
    if (!xcr0) {
        return host_failed(xcr0.error());
    }
    if (!image_holds(*image, *xcr0)) {
        return not_emulated();
    }
    return Prepared{std::move(*image), *xcr0};
}

}  // namespace

const XsaveLayout& XsaveLayout::of_host() {
    static const XsaveLayout layout = [] {
        XsaveLayout found;
        for (unsigned i = 2; i < found.components.size(); ++i) {
            unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
            __cpuid_count(0xD, i, eax, ebx, ecx, edx);
            const bool supervisor = (ecx & 1) != 0;
            if (!supervisor) {
                found.components[i] = {.offset = ebx, .size = eax, .aligned = (ecx & 2) != 0};
            }
        }
        return found;
    }();
    return layout;
}

std::uint32_t XsaveLayout::compacted_offset(unsigned component, std::uint64_t present) const {
    std::uint32_t at = kHeaderAt + kHeaderSize;
    for (unsigned i = 2; i <= component; ++i) {
        if ((present >> i & 1) == 0) {
            continue;
        }
        if (components[i].aligned) {
            at = (at + 63) & ~63U;
        }
        if (i < component) {
            at += components[i].size;
        }
    }
    return at;
}

Executed save_extended_state(SaveKind kind, std::uint64_t address, std::uint64_t requested, AddressSpace& space,
                             Access access, ExtendedState& state) {
    auto prepared = prepare(address, state);
    if (!prepared) {
        return std::unexpected(std::move(prepared).error());
    }
    const std::span<const std::byte> image = prepared->image;
    const XsaveLayout& layout = XsaveLayout::of_host();
    const std::uint64_t wanted = requested & prepared->enabled;
    const bool compact = kind == SaveKind::xsavec || kind == SaveKind::xsaves;
    std::uint64_t in_use = load<Header>(image, kHeaderAt).present;
    if (compact && load<std::uint32_t>(image, kMxcsrAt) != kInitialMxcsr) {
        in_use |= kSse;  // XSAVEC and XSAVES count MXCSR as part of SSE
    }
    // All but XSAVE skip components in their initial state.
    const std::uint64_t written = kind == SaveKind::xsave ? wanted : wanted & in_use;
    access.write = true;

    std::optional<PageFault> fault;
    const auto put = [&](std::uint64_t at, std::span<const std::byte> bytes) {
        if (fault) {
            return;
        }
        if (const auto done = space.write(address + at, bytes, access); !done) {
            fault = done.error();
        }
    };
    if ((written & kX87) != 0) {
        for (const Range& range : kX87Ranges) {
            put(range.at, image.subspan(range.at, range.size));
        }
    }
    // XSAVE and XSAVEOPT write MXCSR for AVX, too, whether or not SSE is in use.
    if (compact ? (written & kSse) != 0 : (wanted & (kSse | kAvx)) != 0) {
        put(kMxcsrAt, image.subspan(kMxcsrAt, kMxcsrSize));
    }
    if ((written & kSse) != 0) {
        put(kXmmAt, image.subspan(kXmmAt, kXmmSize));
    }
    for (unsigned i = 2; i < layout.components.size(); ++i) {
        if ((written >> i & 1) != 0) {
            const auto& component = layout.components[i];
            put(compact ? layout.compacted_offset(i, wanted) : component.offset,
                image.subspan(component.offset, component.size));
        }
    }
    std::array<std::uint64_t, 2> header = {in_use & wanted, wanted | kCompacted};
    if (!compact) {
        std::uint64_t old = 0;
        if (const auto done = space.read(address + kHeaderAt, std::as_writable_bytes(std::span(&old, 1)), access);
            !done) {
            return raise(page_fault(done.error()));
        }
        header[0] |= old & ~wanted;
    }
    put(kHeaderAt, std::as_bytes(std::span(header)).first(compact ? 16 : 8));
    if (fault) {
        return raise(page_fault(*fault));
    }
    return {};
}

Executed restore_extended_state(RestoreKind kind, std::uint64_t address, std::uint64_t requested, AddressSpace& space,
                                Access access, ExtendedState& state) {
    auto prepared = prepare(address, state);
    if (!prepared) {
        return std::unexpected(std::move(prepared).error());
    }
    const std::span<std::byte> image = prepared->image;
    const XsaveLayout& layout = XsaveLayout::of_host();
    const std::uint64_t wanted = requested & prepared->enabled;
    Header header{};
    if (const auto done = space.read(address + kHeaderAt, std::as_writable_bytes(std::span(&header, 1)), access);
        !done) {
        return raise(page_fault(done.error()));
    }
    const bool compact = (header.compaction & kCompacted) != 0;
    const std::uint64_t laid_out = compact ? header.compaction & ~kCompacted : prepared->enabled;
    const bool sound = compact ? (laid_out & ~prepared->enabled) == 0 && std::ranges::count(header.reserved, 0U) == 6
                               : header.compaction == 0 && header.reserved[0] == 0 && kind == RestoreKind::xrstor;
    if (!sound || (header.present & ~laid_out) != 0) {
        return raise(general_protection());
    }

    std::optional<PageFault> fault;
    const auto get = [&](std::uint64_t at, std::uint32_t to, std::uint32_t size) {
        if (fault) {
            return;
        }
        if (const auto done = space.read(address + at, image.subspan(to, size), access); !done) {
            fault = done.error();
        }
    };
    const std::uint64_t loaded = wanted & header.present;
    const auto old = load<Header>(image, kHeaderAt);
    std::uint64_t in_use = (old.present & ~wanted) | loaded;
    if ((loaded & kX87) != 0) {
        for (const Range& range : kX87Ranges) {
            get(range.at, range.at, range.size);
        }
    }
    const bool loads_mxcsr = compact ? (loaded & kSse) != 0 : (wanted & (kSse | kAvx)) != 0;
    const auto mask = load<std::uint32_t>(image, kMxcsrAt + 4);
    if (loads_mxcsr) {
        get(kMxcsrAt, kMxcsrAt, 4);
        if (!fault && (load<std::uint32_t>(image, kMxcsrAt) & ~(mask != 0 ? mask : 0xFFBFU)) != 0) {
            return raise(general_protection());
        }
    } else if ((wanted & kSse) != 0) {
        store(image, kMxcsrAt, kInitialMxcsr);
    }
    if ((loaded & kSse) != 0) {
        get(kXmmAt, kXmmAt, kXmmSize);
    } else if ((wanted & kSse) != 0) {
        std::ranges::fill(image.subspan(kXmmAt, kXmmSize), std::byte{0});
    }
    for (unsigned i = 2; i < layout.components.size(); ++i) {
        if ((loaded >> i & 1) != 0) {
            const auto& component = layout.components[i];
            get(compact ? layout.compacted_offset(i, laid_out) : component.offset, component.offset, component.size);
        }
    }
    if (fault) {
        return raise(page_fault(*fault));
    }
    // KVM_SET_XSAVE leaves protection keys unchanged if they are not in use; it resets all other
    // components.
    constexpr std::uint64_t kKeys = 1ULL << kProtectionKeys;
    if ((wanted & ~loaded & kKeys) != 0) {
        const auto& keys = layout.components[kProtectionKeys];
        std::ranges::fill(image.subspan(keys.offset, keys.size), std::byte{0});
        in_use |= kKeys;
    }
    // KVM takes MXCSR only if the SSE registers are in use.
    if (load<std::uint32_t>(image, kMxcsrAt) != kInitialMxcsr) {
        in_use |= kSse;
    }
    store(image, kHeaderAt, Header{.present = in_use, .compaction = 0, .reserved = {}});
    if (Status stored = state.store(image); !stored) {
        return host_failed(std::move(stored).error());
    }
    return {};
}

Executed access_protection_keys(bool write, CpuState& cpu, ExtendedState& extended) {
    if ((cpu.sregs.cr4 & kCr4ProtectionKeys) == 0) {
        return raise(invalid_opcode());
    }
    if (static_cast<std::uint32_t>(cpu.regs.rcx) != 0 || (write && static_cast<std::uint32_t>(cpu.regs.rdx) != 0)) {
        return raise(general_protection());
    }
    auto image = extended.load();
    if (!image) {
        return host_failed(image.error());
    }
    const XsaveLayout::Component& component = XsaveLayout::of_host().components[kProtectionKeys];
    if (component.size < 4 || component.offset + component.size > image->size()) {
        return not_emulated();
    }
    if (!write) {
        cpu.regs.rax = load<std::uint32_t>(*image, component.offset);
        cpu.regs.rdx = 0;
        return {};
    }
    store(*image, component.offset, static_cast<std::uint32_t>(cpu.regs.rax));
    store(*image, kHeaderAt, load<std::uint64_t>(*image, kHeaderAt) | 1ULL << kProtectionKeys);
    if (Status stored = extended.store(*image); !stored) {
        return host_failed(std::move(stored).error());
    }
    return {};
}

}  // namespace snapvm::emulate
