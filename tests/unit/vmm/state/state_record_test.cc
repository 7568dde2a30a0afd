// SPDX-License-Identifier: Apache-2.0
#include "vmm/state/state_record.h"

#include <set>

#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

std::vector<StateRecord> some_records() {
    return {{RecordKind::clock, 1, 0, {std::byte{1}}},
            {RecordKind::vcpu, 3, 0, {std::byte{2}}},
            {RecordKind::vcpu, 3, 1, {std::byte{3}}}};
}

TEST(RecordReader, HandsOutEachByKindAndInstance) {
    const auto records = some_records();
    RecordReader reader(records);
    EXPECT_EQ(reader.take(RecordKind::vcpu, 1, 3).value(), &records[2]);
    EXPECT_EQ(reader.take(RecordKind::clock, 0, 1).value(), &records[0]);
    EXPECT_EQ(reader.take(RecordKind::vcpu, 0, 3).value(), &records[1]);
    EXPECT_TRUE(ok(reader.finish()));
}

TEST(RecordReader, NamesTheMissing) {
    const auto records = some_records();
    RecordReader reader(records);
    EXPECT_TRUE(fails(reader.take(RecordKind::vcpu, 2, 3), ErrorKind::invalid, "vcpu 2 is missing"));
    EXPECT_TRUE(fails(reader.take(RecordKind::serial, 0, 1), ErrorKind::invalid, "serial 0 is missing"));
}

TEST(RecordReader, RefusesOneThatComesTwice) {
    auto records = some_records();
    records.push_back(records[1]);
    RecordReader reader(records);
    EXPECT_TRUE(fails(reader.take(RecordKind::vcpu, 0, 3), ErrorKind::invalid, "vcpu 0 is there twice"));
}

TEST(RecordReader, GivesNoneToTwoOwners) {
    const auto records = some_records();
    RecordReader reader(records);
    ASSERT_TRUE(ok(reader.take(RecordKind::clock, 0, 1)));
    EXPECT_TRUE(fails(reader.take(RecordKind::clock, 0, 1), ErrorKind::invalid));
}

TEST(RecordReader, NamesBothVersions) {
    const auto records = some_records();
    for (const std::uint16_t version : {std::uint16_t{0}, std::uint16_t{2}, std::uint16_t{4}, std::uint16_t{0xFFFF}}) {
        RecordReader reader(records);
        const auto result = reader.take(RecordKind::vcpu, 0, version);
        EXPECT_TRUE(fails(result, ErrorKind::unsupported,
                          "has version 3, and this program reads version " + std::to_string(version)));
    }
}

TEST(RecordReader, NamesTheOneThatNobodyClaimed) {
    const auto records = some_records();
    RecordReader reader(records);
    ASSERT_TRUE(ok(reader.take(RecordKind::clock, 0, 1)));
    ASSERT_TRUE(ok(reader.take(RecordKind::vcpu, 0, 3)));
    EXPECT_TRUE(fails(reader.finish(), ErrorKind::invalid, "vcpu 1 belongs to no part of this machine"));
}

TEST(RecordKind, NumbersOnDiskAreTheseForGood) {
    EXPECT_EQ(static_cast<int>(RecordKind::clock), 1);
    EXPECT_EQ(static_cast<int>(RecordKind::vcpu), 2);
    EXPECT_EQ(static_cast<int>(RecordKind::run_state), 3);
    EXPECT_EQ(static_cast<int>(RecordKind::serial), 32);
    EXPECT_EQ(static_cast<int>(RecordKind::ioapic), 33);
    EXPECT_EQ(static_cast<int>(RecordKind::reset), 34);
    EXPECT_EQ(static_cast<int>(RecordKind::test_port), 35);
    EXPECT_EQ(static_cast<int>(RecordKind::vmgenid), 36);
}

TEST(RecordKind, EachHasANameOfItsOwn) {
    std::set<std::string_view> names;
    for (const int kind : {1, 2, 3, 32, 33, 34, 35, 36}) {
        EXPECT_TRUE(names.insert(name_of(static_cast<RecordKind>(kind))).second) << kind;
    }
    EXPECT_FALSE(names.contains("unknown"));
    EXPECT_EQ(name_of(static_cast<RecordKind>(0xFFFF)), "unknown");
}

}  // namespace
}  // namespace snapvm
