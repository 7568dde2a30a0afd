// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "tests/support/result_matchers.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

// Every byte of the structs different from its neighbours' and from zero: a field left out, taken
// twice or cut short shows.
template <class T>
T noise(std::mt19937& random) {
    T value;
    std::ranges::generate(std::as_writable_bytes(std::span(&value, 1)),
                          [&] { return static_cast<std::byte>(random() % 255 + 1); });
    return value;
}

VcpuStateV1 full_state() {
    std::mt19937 random(42);
    VcpuStateV1 state;
    for (int i = 0; i < 5; ++i) {
        state.cpuid.push_back(noise<kvm_cpuid_entry2>(random));
        std::ranges::fill(state.cpuid.back().padding, 0);
    }
    state.mp_state = noise<kvm_mp_state>(random);
    state.regs = noise<kvm_regs>(random);
    state.sregs = noise<kvm_sregs2>(random);
    for (kvm_segment* segment : {&state.sregs.cs, &state.sregs.ds, &state.sregs.es, &state.sregs.fs, &state.sregs.gs,
                                 &state.sregs.ss, &state.sregs.tr, &state.sregs.ldt}) {
        segment->padding = 0;
    }
    std::ranges::fill(state.sregs.gdt.padding, 0);
    std::ranges::fill(state.sregs.idt.padding, 0);
    state.xsave.resize(sizeof(kvm_xsave) + 4096);
    std::ranges::generate(state.xsave, [&] { return static_cast<std::byte>(random()); });
    state.xcrs = noise<kvm_xcrs>(random);
    state.xcrs.nr_xcrs = KVM_MAX_XCRS;
    for (auto& xcr : state.xcrs.xcrs) {
        xcr.reserved = 0;
    }
    std::ranges::fill(state.xcrs.padding, 0);
    state.debugregs = noise<kvm_debugregs>(random);
    std::ranges::fill(state.debugregs.reserved, 0);
    state.lapic = noise<kvm_lapic_state>(random);
    for (int i = 0; i < 7; ++i) {
        state.msrs.push_back(noise<kvm_msr_entry>(random));
        state.msrs.back().reserved = 0;
    }
    state.events = noise<kvm_vcpu_events>(random);
    state.events.nmi.pad = 0;
    std::ranges::fill(state.events.reserved, 0);
    state.tsc_khz = 0x12345678;
    return state;
}

template <class T>
void expect_same(const T& a, const T& b, const char* what) {
    const auto x = std::as_bytes(std::span(&a, 1));
    const auto y = std::as_bytes(std::span(&b, 1));
    EXPECT_TRUE(std::ranges::equal(x, y)) << what << " differs at byte " << std::ranges::mismatch(x, y).in1 - x.begin();
}

TEST(VcpuCodec, EveryFieldComesBack) {
    const VcpuStateV1 state = full_state();
    const auto decoded = VcpuStateV1::decode(state.encode());
    ASSERT_TRUE(ok(decoded));
    ASSERT_EQ(decoded->cpuid.size(), state.cpuid.size());
    for (std::size_t i = 0; i < state.cpuid.size(); ++i) {
        expect_same(decoded->cpuid[i], state.cpuid[i], "cpuid");
    }
    expect_same(decoded->mp_state, state.mp_state, "mp_state");
    expect_same(decoded->regs, state.regs, "regs");
    expect_same(decoded->sregs, state.sregs, "sregs");
    EXPECT_TRUE(decoded->xsave == state.xsave);
    expect_same(decoded->xcrs, state.xcrs, "xcrs");
    expect_same(decoded->debugregs, state.debugregs, "debugregs");
    expect_same(decoded->lapic, state.lapic, "lapic");
    ASSERT_EQ(decoded->msrs.size(), state.msrs.size());
    for (std::size_t i = 0; i < state.msrs.size(); ++i) {
        expect_same(decoded->msrs[i], state.msrs[i], "msr");
    }
    expect_same(decoded->events, state.events, "events");
    EXPECT_EQ(decoded->tsc_khz, state.tsc_khz);
    EXPECT_TRUE(decoded->encode() == state.encode());
}

TEST(VcpuCodec, EveryTruncationAndExtensionIsRefused) {
    auto bytes = full_state().encode();
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        ASSERT_TRUE(fails(VcpuStateV1::decode(std::span(bytes).first(size)), ErrorKind::invalid)) << size;
    }
    bytes.push_back(std::byte{0});
    EXPECT_TRUE(fails(VcpuStateV1::decode(bytes), ErrorKind::invalid, "1 bytes too many"));
}

TEST(VcpuCodec, EveryFlippedBitIsRefusedOrKept) {
    const auto bytes = full_state().encode();
    for (std::size_t at = 0; at < bytes.size(); ++at) {
        auto changed = bytes;
        changed[at] ^= std::byte{1} << (at % 8);
        if (const auto decoded = VcpuStateV1::decode(changed)) {
            ASSERT_TRUE(decoded->encode() == changed) << at;
        }
    }
}

void put_u32(std::vector<std::byte>& bytes, std::size_t at, std::uint32_t value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

// Where the three lengths stand: of the CPUID table at the start, of XSAVE after the registers, of
// the MSRs near the end.
struct Lengths {
    std::size_t cpuid = 0;
    std::size_t xsave = 0;
    std::size_t msrs = 0;
};
Lengths lengths_of(const VcpuStateV1& state, std::span<const std::byte> bytes) {
    // Their contents are noise, so they are found by them.
    const auto length_in_front_of = [&](std::span<const std::byte> contents) {
        const auto found = std::ranges::search(bytes, contents);
        return static_cast<std::size_t>(found.begin() - bytes.begin()) - sizeof(std::uint32_t);
    };
    // An MSR is its number and its value side by side.
    std::array<std::byte, 12> msr;
    std::memcpy(msr.data(), &state.msrs[0].index, 4);
    std::memcpy(msr.data() + 4, &state.msrs[0].data, 8);
    return {.cpuid = 0, .xsave = length_in_front_of(state.xsave), .msrs = length_in_front_of(msr)};
}

TEST(VcpuCodec, EveryLengthAtItsExtremesIsRefused) {
    const VcpuStateV1 state = full_state();
    const auto good = state.encode();
    const Lengths at = lengths_of(state, good);
    for (const auto& [where, right] :
         {std::pair{at.cpuid, std::size_t{5}}, {at.xsave, state.xsave.size()}, {at.msrs, std::size_t{7}}}) {
        std::uint32_t there = 0;
        std::memcpy(&there, good.data() + where, sizeof there);
        ASSERT_EQ(there, right);
        for (const std::uint32_t value :
             {0U, 1U, there - 1, there + 1, 256U, 257U, 1024U, 1025U, 65536U, 65537U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
            auto bytes = good;
            put_u32(bytes, where, value);
            EXPECT_TRUE(fails(VcpuStateV1::decode(bytes), ErrorKind::invalid)) << where << ' ' << value;
        }
    }
}

// A count above the limit with nothing behind it must not pass for an empty list.
TEST(VcpuCodec, AnAbsurdCountIsNoEmptyList) {
    VcpuStateV1 state = full_state();
    state.cpuid.clear();
    auto bytes = state.encode();
    put_u32(bytes, 0, 257);
    EXPECT_TRUE(fails(VcpuStateV1::decode(bytes), ErrorKind::invalid));
    put_u32(bytes, 0, 0xFFFFFFFF);
    EXPECT_TRUE(fails(VcpuStateV1::decode(bytes), ErrorKind::invalid));
}

TEST(VcpuCodec, ImpossibleXsaveAndXcrsAreRefused) {
    VcpuStateV1 state = full_state();
    state.xsave.resize(sizeof(kvm_xsave) - 1);
    EXPECT_TRUE(fails(VcpuStateV1::decode(state.encode()), ErrorKind::invalid, "XSAVE"));
    state = full_state();
    state.xcrs.nr_xcrs = KVM_MAX_XCRS + 1;
    EXPECT_TRUE(fails(VcpuStateV1::decode(state.encode()), ErrorKind::invalid, "XCRs"));
}

// MSR order. TSC first, since kvmclock takes its base from it; TSC deadline last, since
// it arms against the TSC.
TEST(OrderMsrs, TscFirstDeadlineLastTheRestAsItWas) {
    EXPECT_EQ(order_msrs({0x6E0, 0x174, 0x10, 0xC0000080, 0x4B564D01}),
              (std::vector<std::uint32_t>{0x10, 0x174, 0xC0000080, 0x4B564D01, 0x6E0}));
    EXPECT_EQ(order_msrs({}), std::vector<std::uint32_t>{});
    EXPECT_EQ(order_msrs({5, 4, 3}), (std::vector<std::uint32_t>{5, 4, 3}));
}

// KVM lists Hyper-V's MSRs whether or not a guest is shown Hyper-V; the reference counter
// (0x40000020) and the run time of a virtual processor (0x40000010) move by themselves.
TEST(MsrsOfGuest, HyperVsOnlyWhereTheGuestIsShownHyperV) {
    const std::vector<std::uint32_t> listed = {0x10,       0x3FFFFFFF, 0x40000000, 0x40000010, 0x40000020,
                                               0x400001FF, 0x40000200, 0x4B564D01, 0x6E0};
    const std::vector<std::uint32_t> without = {0x10, 0x3FFFFFFF, 0x40000200, 0x4B564D01, 0x6E0};
    kvm_cpuid_entry2 interface{};
    interface.function = 0x40000001;
    EXPECT_EQ(msrs_of_guest(listed, {}), without);
    interface.eax = 0x01007EFB;  // KVM's features
    EXPECT_EQ(msrs_of_guest(listed, std::span(&interface, 1)), without);
    interface.eax = 0x31237648;
    EXPECT_EQ(msrs_of_guest(listed, std::span(&interface, 1)), listed);
    interface.function = 0x40000101;  // where KVM's leaf is beside Hyper-V's
    EXPECT_EQ(msrs_of_guest(listed, std::span(&interface, 1)), without);
}

}  // namespace
}  // namespace snapvm
