// SPDX-License-Identifier: Apache-2.0
// The XSAVE family compared with the processor's own, on the same state. XSAVES and XRSTORS belong
// to the kernel; apart from supervisor components, which no host here has, they do what XSAVEC and
// XRSTOR do.
#include <cpuid.h>

#include <algorithm>
#include <random>

#include "tests/unit/vmm/emulate/fixture.h"
#include "vmm/emulate/xsave.h"

namespace snapvm::emulate {
namespace {

using test::Bytes;
using test::exception_of;
using test::Processor;

constexpr std::uint64_t kArea = 0x20000;
constexpr std::size_t kAreaSize = 4096;

struct alignas(64) Area {
    std::array<std::uint8_t, kAreaSize> bytes{};

    template <class T>
    void put(std::size_t at, const T& value) {
        std::memcpy(bytes.data() + at, &value, sizeof value);
    }
    template <class T>
    [[nodiscard]] T at(std::size_t where) const {
        T value{};
        std::memcpy(&value, bytes.data() + where, sizeof value);
        return value;
    }
};

bool has(unsigned leaf_bit) {  // of CPUID leaf 0xD, 1
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(0xD, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> leaf_bit & 1) != 0;
}

// Without tiles (17, 18), which a program must ask its kernel for, and protection keys (9), which
// would shut this program out of its memory.
std::uint64_t components() {
    unsigned low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low | std::uint64_t{high} << 32) & 0xE7;
}

enum class Native : std::uint8_t { xsave, xsaveopt, xsavec };

// Loads `from` into the processor for a moment. `what` saves it into `to`, and XSAVE saves it into
// `all`. There are no calls in between, because library functions use these registers.
void save_natively(const Area& from, Native what, std::uint64_t mask, Area& to, Area& all) {
    Area mine;
    const auto low = static_cast<std::uint32_t>(components());
    const auto some = static_cast<std::uint32_t>(mask);
    asm volatile("xsave64 %0" : "=m"(mine) : "a"(low), "d"(0) : "memory");
    asm volatile("xrstor64 %0" : : "m"(from), "a"(low), "d"(0) : "memory");
    asm volatile("xsave64 %0" : "+m"(all) : "a"(low), "d"(0) : "memory");
    switch (what) {
        case Native::xsave: asm volatile("xsave64 %0" : "+m"(to) : "a"(some), "d"(0) : "memory"); break;
        case Native::xsaveopt: asm volatile("xsaveopt64 %0" : "+m"(to) : "a"(some), "d"(0) : "memory"); break;
        case Native::xsavec: asm volatile("xsavec64 %0" : "+m"(to) : "a"(some), "d"(0) : "memory"); break;
    }
    asm volatile("xrstor64 %0" : : "m"(mine), "a"(low), "d"(0) : "memory");
}

// `from` restored natively with `mask` over the state `before`; the result as XSAVE sees it.
void restore_natively(const Area& before, const Area& from, std::uint64_t mask, Area& all) {
    Area mine;
    const auto low = static_cast<std::uint32_t>(components());
    const auto some = static_cast<std::uint32_t>(mask);
    asm volatile("xsave64 %0" : "=m"(mine) : "a"(low), "d"(0) : "memory");
    asm volatile("xrstor64 %0" : : "m"(before), "a"(low), "d"(0) : "memory");
    asm volatile("xrstor64 %0" : : "m"(from), "a"(some), "d"(0) : "memory");
    asm volatile("xsave64 %0" : "=m"(all) : "a"(low), "d"(0) : "memory");
    asm volatile("xrstor64 %0" : : "m"(mine), "a"(low), "d"(0) : "memory");
}

// A state that the processor takes, in standard form: random registers, some components in their
// initial state.
Area random_state(std::mt19937_64& random) {
    Area area;
    for (std::size_t i = 0; i < kAreaSize; i += 8) {
        area.put(i, random());
    }
    std::ranges::fill(std::span(area.bytes).first(32), std::uint8_t{0});
    area.put(0, std::uint16_t{0x037F});  // all x87 exceptions masked, none pending
    area.put(24, std::uint32_t{random() % 2 == 0 ? 0x1F80U : 0x9FC0U});
    for (std::size_t i = 0; i < 8; ++i) {  // ten bytes a register of the x87, then reserved
        std::ranges::fill(std::span(area.bytes).subspan(32 + 16 * i + 10, 6), std::uint8_t{0});
    }
    std::ranges::fill(std::span(area.bytes).subspan(416, 160), std::uint8_t{0});
    area.put(512, random() & random() & components() ? random() & components() : components());
    return area;
}

// What both have where they must have it: the header, and every component that it names.
void expect_same_components(const Area& got, const Area& expected, bool compact) {
    const auto present = expected.at<std::uint64_t>(512);
    EXPECT_EQ(got.at<std::uint64_t>(512), present);
    EXPECT_EQ(got.at<std::uint64_t>(520), expected.at<std::uint64_t>(520));
    const auto same = [&](std::size_t at, std::size_t size, const char* what) {
        EXPECT_TRUE(
            std::ranges::equal(std::span(got.bytes).subspan(at, size), std::span(expected.bytes).subspan(at, size)))
            << what;
    };
    if ((present & 1) != 0) {
        same(0, 8, "x87 control");
        same(32, 128, "x87 registers");
    }
    if ((present & 2) != 0) {
        same(24, 4, "MXCSR");
        same(160, 256, "XMM");
    }
    const XsaveLayout& layout = XsaveLayout::of_host();
    const std::uint64_t laid_out = expected.at<std::uint64_t>(520) & ~(1ULL << 63);
    for (unsigned i = 2; i < 63; ++i) {
        if ((present >> i & 1) != 0) {
            const std::size_t at = compact ? layout.compacted_offset(i, laid_out) : layout.components[i].offset;
            same(at, layout.components[i].size, ("component " + std::to_string(i)).c_str());
        }
    }
}

struct SaveForm {
    const char* name;
    Native native;
    Bytes code;
    unsigned feature;
    bool compact;
};

class Saves : public ::testing::TestWithParam<SaveForm> {};

TEST_P(Saves, AsTheProcessorDoes) {
    const SaveForm& form = GetParam();
    if (form.feature < 32 && !has(form.feature)) {
        GTEST_SKIP() << "this processor has no such instruction";
    }
    std::mt19937_64 random(7);
    for (int round = 0; round < 100; ++round) {
        const Area state = random_state(random);
        const std::uint64_t mask = round % 3 == 0 ? ~0ULL : random() & 0xE7;
        Area expected, all;
        for (std::size_t i = 0; i < 512; i += 8) {
            expected.put(i, random());
        }
        expected.put(512, random() & 0xFF);
        Processor processor;
        processor.put(kArea, expected.bytes);
        save_natively(state, form.native, mask & components(), expected, all);
        processor.extended.enabled = components();
        std::ranges::copy(std::as_bytes(std::span(all.bytes)), processor.extended.image.begin());
        processor.cpu.regs.rdi = kArea;
        processor.cpu.regs.rax = mask & 0xFFFF'FFFF;
        processor.cpu.regs.rdx = mask >> 32;
        ASSERT_TRUE(processor.run(form.code).has_value());
        Area got;
        got.bytes = processor.at<decltype(got.bytes)>(kArea);
        expect_same_components(got, expected, form.compact);
        ASSERT_FALSE(HasFailure()) << "round " << round;
    }
}

INSTANTIATE_TEST_SUITE_P(Xsave, Saves,
                         ::testing::Values(SaveForm{"xsave64", Native::xsave, {0x48, 0x0F, 0xAE, 0x27}, 99, false},
                                           SaveForm{"xsave", Native::xsave, {0x0F, 0xAE, 0x27}, 99, false},
                                           SaveForm{"xsaveopt64", Native::xsaveopt, {0x48, 0x0F, 0xAE, 0x37}, 0, false},
                                           SaveForm{"xsavec64", Native::xsavec, {0x48, 0x0F, 0xC7, 0x27}, 1, true},
                                           SaveForm{"xsaves64", Native::xsavec, {0x48, 0x0F, 0xC7, 0x2F}, 1, true}),
                         [](const auto& form) { return form.param.name; });

// Saved by the processor in either form, restored by both, compared by all of the state.
TEST(Xrstor, AsTheProcessorDoes) {
    std::mt19937_64 random(9);
    for (int round = 0; round < 200; ++round) {
        const bool compact = round % 2 == 1 && has(1);
        const Area before = random_state(random);
        Area from, all, expected;
        save_natively(random_state(random), compact ? Native::xsavec : Native::xsave,
                      round % 5 == 0 ? components() : random() & components(), from, all);
        if (!compact && round % 3 == 0) {
            from.put(512, from.at<std::uint64_t>(512) & random());  // absent ones become initial
        }
        const std::uint64_t mask = round % 4 == 0 ? components() : random() & components();
        restore_natively(before, from, mask, expected);
        Processor processor;
        Area current;
        save_natively(before, Native::xsave, components(), current, all);
        processor.extended.enabled = components();
        std::ranges::copy(std::as_bytes(std::span(all.bytes)), processor.extended.image.begin());
        processor.put(kArea, from.bytes);
        processor.cpu.regs.rdi = kArea;
        processor.cpu.regs.rax = mask;
        // xrstors64 takes the compacted form only.
        ASSERT_TRUE(
            processor.run(compact && round % 4 == 1 ? Bytes{0x48, 0x0F, 0xC7, 0x1F} : Bytes{0x48, 0x0F, 0xAE, 0x2F})
                .has_value());
        Area got;
        std::memcpy(got.bytes.data(), processor.extended.image.data(), kAreaSize);
        // Registers that are initial may count as in use: then they hold zeros, which is the same.
        EXPECT_EQ(expected.at<std::uint64_t>(512) & ~got.at<std::uint64_t>(512), 0U);
        EXPECT_EQ(got.at<std::uint64_t>(512) & ~expected.at<std::uint64_t>(512) & ~2ULL, 0U);
        EXPECT_EQ(got.at<std::uint32_t>(24), expected.at<std::uint32_t>(24)) << "MXCSR";
        got.put(512, expected.at<std::uint64_t>(512));
        expect_same_components(got, expected, false);
        ASSERT_FALSE(HasFailure()) << "round " << round;
    }
}

class BadArea : public ::testing::Test {
protected:
    BadArea() {
        processor.extended.enabled = components();
        processor.cpu.regs.rdi = kArea;
        processor.cpu.regs.rax = 7;
    }
    std::uint8_t vector_of(const Bytes& code) { return exception_of(processor.run(code)).value_or(Exception{}).vector; }
    const Bytes xrstor{0x48, 0x0F, 0xAE, 0x2F}, xrstors{0x48, 0x0F, 0xC7, 0x1F}, xsave{0x48, 0x0F, 0xAE, 0x27};
    Processor processor;
};

TEST_F(BadArea, MisalignedOrMalformedIsAGeneralProtection) {
    processor.cpu.regs.rdi = kArea + 8;
    EXPECT_EQ(vector_of(xsave), kVectorGeneralProtection);
    EXPECT_EQ(vector_of(xrstor), kVectorGeneralProtection);
    processor.cpu.regs.rdi = kArea;
    EXPECT_EQ(vector_of(xrstors), kVectorGeneralProtection);  // standard form
    processor.put(kArea + 512, std::uint64_t{1} << 62);  // a component that no processor has
    EXPECT_EQ(vector_of(xrstor), kVectorGeneralProtection);
    processor.put(kArea + 512, std::uint64_t{0});
    processor.put(kArea + 520, std::uint64_t{1});  // compaction bits in the standard form
    EXPECT_EQ(vector_of(xrstor), kVectorGeneralProtection);
    processor.put(kArea + 520, std::uint64_t{1} << 63 | 1);
    processor.put(kArea + 512, std::uint64_t{2});  // present, but not laid out
    EXPECT_EQ(vector_of(xrstor), kVectorGeneralProtection);
    processor.put(kArea + 512, std::uint64_t{1});
    processor.put(kArea + 528, std::uint8_t{1});  // reserved
    EXPECT_EQ(vector_of(xrstor), kVectorGeneralProtection);
    processor.put(kArea + 528, std::uint8_t{0});
    EXPECT_TRUE(processor.run(xrstor).has_value());
    processor.put(kArea + 520, std::uint64_t{0});
    processor.put(kArea + 512, std::uint64_t{2});
    processor.put(kArea + 24, std::uint32_t{0xFFFF'0000});  // reserved bits of MXCSR
    EXPECT_EQ(vector_of(xrstor), kVectorGeneralProtection);
}

TEST_F(BadArea, TheKernelMayNotWantIt) {
    processor.cpu.sregs.cr0 |= kCr0TaskSwitched;
    EXPECT_EQ(vector_of(xsave), kVectorDeviceNotAvailable);
    processor.cpu.sregs.cr4 &= ~kCr4Osxsave;
    EXPECT_EQ(vector_of(xsave), kVectorInvalidOpcode);
    processor.cpu.sregs.cr4 |= kCr4Osxsave;
    processor.cpu.sregs.cr0 = 0;
    processor.cpu.sregs.ss.dpl = 3;
    EXPECT_EQ(vector_of(xrstors), kVectorGeneralProtection);
}

TEST(Xgetbv, TellsWhatIsEnabledAndInUse) {
    Processor processor;
    processor.extended.enabled = 0x0000'0001'0000'00E7;
    ASSERT_TRUE(processor.run({0x0F, 0x01, 0xD0}).has_value());
    EXPECT_EQ(processor.cpu.regs.rax, 0xE7U);
    EXPECT_EQ(processor.cpu.regs.rdx, 1U);
    processor.extended.image[512] = std::byte{0x0B};
    processor.cpu.regs.rcx = 1;
    ASSERT_TRUE(processor.run({0x0F, 0x01, 0xD0}).has_value());
    EXPECT_EQ(processor.cpu.regs.rax, 0x03U);
    processor.cpu.regs.rcx = 2;
    EXPECT_EQ(exception_of(processor.run({0x0F, 0x01, 0xD0})).value_or(Exception{}).vector, kVectorGeneralProtection);
}

TEST(ProtectionKeys, AreAComponentOfExtendedState) {
    Processor processor;
    const auto& component = XsaveLayout::of_host().components[9];
    processor.cpu.regs.rax = 0x5555'5554;
    processor.cpu.regs.rdx = 0;
    const auto written = processor.run({0x0F, 0x01, 0xEF});
    if (component.size == 0) {
        EXPECT_TRUE(test::is_unknown(written));
        return;
    }
    ASSERT_TRUE(written.has_value());
    std::uint32_t value = 0;
    std::memcpy(&value, processor.extended.image.data() + component.offset, sizeof value);
    EXPECT_EQ(value, 0x5555'5554U);
    EXPECT_EQ(processor.cpu.regs.rip, Processor::kCode + 3);
    processor.cpu.regs.rax = 0;
    ASSERT_TRUE(processor.run({0x0F, 0x01, 0xEE}).has_value());
    EXPECT_EQ(processor.cpu.regs.rax, 0x5555'5554U);
    processor.cpu.regs.rcx = 1;
    EXPECT_EQ(exception_of(processor.run({0x0F, 0x01, 0xEE})).value_or(Exception{}).vector, kVectorGeneralProtection);
}

}  // namespace
}  // namespace snapvm::emulate
