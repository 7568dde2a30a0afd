// SPDX-License-Identifier: Apache-2.0
// The AML encoder against bytes that follow from the specification's rules (ACPI 6.4, chapter 20
// and section 6.4), worked out by hand.
#include "vmm/boot/aml.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>

namespace snapvm::aml {
namespace {

Bytes bytes(std::initializer_list<int> values) {
    Bytes out;
    for (const int value : values) {
        out.push_back(static_cast<std::byte>(value));
    }
    return out;
}
Bytes text(std::string_view characters) {
    const auto raw = std::as_bytes(std::span(characters));
    return {raw.begin(), raw.end()};
}

TEST(Aml, IntegersTakeTheirShortestForm) {
    EXPECT_EQ(integer(0), bytes({0x00}));
    EXPECT_EQ(integer(1), bytes({0x01}));
    EXPECT_EQ(integer(2), bytes({0x0A, 0x02}));
    EXPECT_EQ(integer(0xFF), bytes({0x0A, 0xFF}));
    EXPECT_EQ(integer(0x100), bytes({0x0B, 0x00, 0x01}));
    EXPECT_EQ(integer(0xFFFF), bytes({0x0B, 0xFF, 0xFF}));
    EXPECT_EQ(integer(0x10000), bytes({0x0C, 0x00, 0x00, 0x01, 0x00}));
    EXPECT_EQ(integer(0xFFFFFFFF), bytes({0x0C, 0xFF, 0xFF, 0xFF, 0xFF}));
    EXPECT_EQ(integer(0x123456789), bytes({0x0E, 0x89, 0x67, 0x45, 0x23, 0x01, 0x00, 0x00, 0x00}));
}

TEST(Aml, StringsEndInNul) { EXPECT_EQ(string("AB"), bytes({0x0D, 'A', 'B', 0x00})); }

// PNP0A03 is 0x030AD041 in every DSDT there is: 'P', 'N' and 'P' are 16, 14 and 16, 0x41D0, and the
// digits 0x0A03, byte-swapped.
TEST(Aml, EisaIdsAreFiveBitsALetter) {
    EXPECT_EQ(eisa_id("PNP0A03"), bytes({0x0C, 0x41, 0xD0, 0x0A, 0x03}));
    EXPECT_EQ(eisa_id("PNP0501"), bytes({0x0C, 0x41, 0xD0, 0x05, 0x01}));
}

TEST(Aml, NamesArePaddedAndPrefixedByTheirNumberOfSegments) {
    EXPECT_EQ(path("A"), text("A___"));
    EXPECT_EQ(path("_S5"), text("_S5_"));
    EXPECT_EQ(path("\\_SB.PWRB"), join({bytes({0x5C, 0x2E}), text("_SB_PWRB")}));
    EXPECT_EQ(path("A.B.C"), join({bytes({0x2F, 3}), text("A___B___C___")}));
    EXPECT_EQ(path("\\"), bytes({0x5C, 0x00}));
}

// A PkgLength counts itself and what follows it, so the borders lie at 63, 4,095 and 1,048,575
// bytes, itself included.
TEST(Aml, PackageLengthsOfOneToFourBytes) {
    struct Case {
        std::size_t terms;  // behind the scope's name
        Bytes length;
    };
    for (const Case& one : {Case{0, bytes({0x05})},  //
                            {58, bytes({0x3F})},  // 63: the last of one byte
                            {59, bytes({0x41, 0x04})},  // 65 = 2 + 4 + 59
                            {4089, bytes({0x4F, 0xFF})},  // 4,095: the last of two
                            {4090, bytes({0x81, 0x00, 0x01})},  // 4,097
                            {1048568, bytes({0x8F, 0xFF, 0xFF})},  // 1,048,575: the last of three
                            {1048569, bytes({0xC1, 0x00, 0x00, 0x01})}}) {  // 1,048,577
        const Bytes terms(one.terms);
        const Bytes encoded = scope("A", terms);
        const Bytes start = join({bytes({0x10}), one.length, text("A___")});
        ASSERT_EQ(encoded.size(), start.size() + one.terms);
        EXPECT_TRUE(std::equal(start.begin(), start.end(), encoded.begin())) << one.terms;
    }
}

TEST(Aml, ObjectsAndTheirContents) {
    EXPECT_EQ(name("_UID", integer(3)), join({bytes({0x08}), text("_UID"), bytes({0x0A, 3})}));
    EXPECT_EQ(package({integer(5), integer(0)}), bytes({0x12, 5, 2, 0x0A, 5, 0x00}));
    EXPECT_EQ(buffer(bytes({7, 8})), bytes({0x11, 5, 0x0A, 2, 7, 8}));
    EXPECT_EQ(device("D0", integer(0)), join({bytes({0x5B, 0x82, 6}), text("D0__"), bytes({0x00})}));
    EXPECT_EQ(port_region("R", 0x602, 2),
              join({bytes({0x5B, 0x80}), text("R___"), bytes({1, 0x0B, 0x02, 0x06, 0x0A, 2})}));
    EXPECT_EQ(byte_fields("R", {"X", "Y"}), join({bytes({0x5B, 0x81, 16}), text("R___"), bytes({1}), text("X___"),
                                                  bytes({8}), text("Y___"), bytes({8})}));
}

TEST(Aml, MethodsAndStatements) {
    EXPECT_EQ(method("_INI", 0, Serialized::no, {}), join({bytes({0x14, 6}), text("_INI"), bytes({0x00})}));
    EXPECT_EQ(method("_EVT", 1, Serialized::yes, {integer(0)}),
              join({bytes({0x14, 7}), text("_EVT"), bytes({0x09, 0x00})}));
    EXPECT_EQ(argument(0), bytes({0x68}));
    EXPECT_EQ(argument(6), bytes({0x6E}));
    EXPECT_EQ(store(integer(1), path("X")), join({bytes({0x70, 0x01}), text("X___")}));
    EXPECT_EQ(notify("X", 0x80), join({bytes({0x86}), text("X___"), bytes({0x0A, 0x80})}));
    EXPECT_EQ(when(equal(argument(0), integer(5)), {integer(1)}), bytes({0xA0, 6, 0x93, 0x68, 0x0A, 5, 0x01}));
}

TEST(Aml, ResourceDescriptors) {
    EXPECT_EQ(io(0x3F8, 8), bytes({0x47, 1, 0xF8, 0x03, 0xF8, 0x03, 1, 8}));
    EXPECT_EQ(memory32(0xD0001000, 0x200), bytes({0x86, 9, 0, 1, 0x00, 0x10, 0x00, 0xD0, 0x00, 0x02, 0x00, 0x00}));
    EXPECT_EQ(interrupt(9, Trigger::level), bytes({0x89, 6, 0, 0x01, 1, 9, 0, 0, 0}));
    EXPECT_EQ(interrupt(0x104, Trigger::edge), bytes({0x89, 6, 0, 0x03, 1, 4, 1, 0, 0}));
    EXPECT_EQ(resources({io(0x505, 1)}), bytes({0x11, 13, 0x0A, 10, 0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1, 0x79, 0}));
}

}  // namespace
}  // namespace snapvm::aml
