// SPDX-License-Identifier: Apache-2.0
// What every device must do, tested over the one list of devices. A device that is added there is
// tested without a change here.
#include <algorithm>
#include <array>
#include <map>
#include <random>

#include "tests/conformance/device_rig.h"
#include "tests/support/result_matchers.h"
#include "vmm/config/saved_state.h"

namespace snapvm {
namespace {

using test::all_devices;
using test::build_rig;
using test::fails;
using test::FakeHost;
using test::ok;
using test::Rig;

constexpr std::array<std::size_t, 4> kSizes = {1, 2, 4, 8};

class DeviceConformance : public ::testing::TestWithParam<DeviceFactory> {
protected:
    [[nodiscard]] static const DeviceFactory& factory() { return GetParam(); }

    static Rig fresh() {
        auto rig = build_rig(factory());
        EXPECT_TRUE(ok(rig));
        return *std::move(rig);
    }
    static Rig restored(const StateRecord& record) {
        auto rig = build_rig(factory(), &record);
        EXPECT_TRUE(ok(rig));
        return *std::move(rig);
    }
    /// Returns records of a fresh device and of several that were driven for a while.
    static std::vector<StateRecord> some_records() {
        std::vector<StateRecord> records = {fresh().save()};
        for (std::uint32_t seed = 1; seed <= 4; ++seed) {
            Rig rig = fresh();
            drive(rig, seed, 500);
            records.push_back(rig.save());
        }
        return records;
    }
    /// A record is refused, or it builds a device that saves the same bytes: no value is corrected
    /// silently.
    static void expect_refused_or_kept(const StateRecord& record, const std::string& what) {
        const auto rig = build_rig(factory(), &record);
        if (rig) {
            ASSERT_TRUE(rig->save() == record) << what << ": restored, but saved differently";
        } else {
            ASSERT_EQ(rig.error().kind(), ErrorKind::invalid) << what << ": " << rig.error().message();
        }
    }
};

TEST_P(DeviceConformance, SavesARecordOfItsKindAndVersion) {
    const StateRecord record = fresh().save();
    EXPECT_EQ(record.kind, factory().kind);
    EXPECT_EQ(record.version, factory().state_version);
    EXPECT_EQ(record.instance, 0U);
    EXPECT_FALSE(record.bytes.empty());
}

TEST_P(DeviceConformance, SavingChangesNothing) {
    Rig rig = fresh();
    drive(rig, 7, 200);
    const StateRecord first = rig.save();
    const auto log = rig.host->log;
    EXPECT_TRUE(rig.save() == first);
    EXPECT_EQ(rig.host->log, log);
}

TEST_P(DeviceConformance, SaveRestoreSaveIsTheSame) {
    for (const StateRecord& record : some_records()) {
        EXPECT_TRUE(restored(record).save() == record);
    }
}

TEST_P(DeviceConformance, BuildingFromARecordSendsNothingOut) {
    for (const StateRecord& record : some_records()) {
        EXPECT_TRUE(restored(record).host->log.empty()) << "before restored(), the machine is not running";
    }
}

// The restored device and the original see the same accesses, and must answer and act the same.
TEST_P(DeviceConformance, RestoredOneGoesOnAsTheOriginal) {
    for (const int before : {0, 1, 20, 500}) {
        Rig original = fresh();
        drive(original, 11, before);
        Rig copy = restored(original.save());
        original.host->log.clear();
        EXPECT_EQ(drive(original, 12, 1000), drive(copy, 12, 1000)) << "after " << before << " accesses";
        EXPECT_EQ(original.host->log, copy.host->log) << "after " << before << " accesses";
        EXPECT_TRUE(original.save() == copy.save()) << "after " << before << " accesses";
    }
}

// A record that never changes would show that it lacks the device's state. A device that is on no
// bus changes when it is restored.
TEST_P(DeviceConformance, ChangedStateIsInTheRecord) {
    Rig rig = fresh();
    const StateRecord before = rig.save();
    if (rig.attached.ranges.empty()) {
        ASSERT_TRUE(ok(rig.device().restored()));
    }
    // The accesses come in parts, because a state of few bits may be back at its first value at the
    // end.
    bool changed = false;
    for (std::uint32_t part = 0; part < 8; ++part) {
        drive(rig, 3 + part, 250);
        changed = changed || !(rig.save() == before);
    }
    EXPECT_TRUE(changed);
}

TEST_P(DeviceConformance, EveryTruncationAndExtensionIsRefused) {
    for (const StateRecord& record : some_records()) {
        for (std::size_t size = 0; size < record.bytes.size(); ++size) {
            StateRecord cut = record;
            cut.bytes.resize(size);
            EXPECT_TRUE(fails(build_rig(factory(), &cut), ErrorKind::invalid))
                << size << " of " << record.bytes.size() << " bytes";
        }
        StateRecord longer = record;
        longer.bytes.push_back(std::byte{0});
        EXPECT_TRUE(fails(build_rig(factory(), &longer), ErrorKind::invalid));
    }
}

TEST_P(DeviceConformance, EveryChangedByteIsRefusedOrKept) {
    for (const StateRecord& record : some_records()) {
        for (std::size_t at = 0; at < record.bytes.size(); ++at) {
            // This flips every single bit, and then all bits of a byte.
            for (const int flip : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF}) {
                StateRecord changed = record;
                changed.bytes[at] ^= static_cast<std::byte>(flip);
                ASSERT_NO_FATAL_FAILURE(expect_refused_or_kept(
                    changed, "byte " + std::to_string(at) + " flipped by " + std::to_string(flip)));
            }
        }
    }
}

TEST_P(DeviceConformance, NoiseAsARecordDoesNoHarm) {
    std::mt19937 random(5);
    const StateRecord like = fresh().save();
    for (int i = 0; i < 300; ++i) {
        StateRecord record = like;
        std::ranges::generate(record.bytes, [&] { return static_cast<std::byte>(random()); });
        ASSERT_NO_FATAL_FAILURE(expect_refused_or_kept(record, "noise"));
        if (auto rig = build_rig(factory(), &record)) {
            drive(*rig, 6, 200);
            EXPECT_TRUE(ok(rig->device().restored()));
            ASSERT_NO_FATAL_FAILURE(expect_refused_or_kept(rig->save(), "noise, driven"));
        }
    }
}

TEST_P(DeviceConformance, AnotherVersionIsRefused) {
    for (const int version : {factory().state_version - 1, factory().state_version + 1, 0xFFFF}) {
        std::vector<StateRecord> records = {fresh().save()};
        records[0].version = static_cast<std::uint16_t>(version);
        RecordReader reader(records);
        EXPECT_TRUE(fails(reader.take(factory().kind, 0, factory().state_version), ErrorKind::unsupported,
                          std::to_string(version)));
    }
}

TEST_P(DeviceConformance, ReadsFillAllBytesAtEveryOffsetAndSize) {
    Rig zeros = fresh();
    Rig ones = fresh();
    for (std::size_t i = 0; i < zeros.attached.ranges.size(); ++i) {
        const BusRange& range = zeros.attached.ranges[i];
        for (const std::size_t size : kSizes) {
            for (std::uint64_t offset = 0; offset + size <= range.size; ++offset) {
                std::array<std::byte, 8> a{};
                std::array<std::byte, 8> b;
                b.fill(std::byte{0xFF});
                range.device->read(offset, std::span(a).first(size));
                ones.attached.ranges[i].device->read(offset, std::span(b).first(size));
                // A read overwrites what was in the buffer before, and changes nothing beyond its
                // size.
                ASSERT_TRUE(std::ranges::equal(std::span(a).first(size), std::span(b).first(size)))
                    << offset << ' ' << size;
                ASSERT_TRUE(std::ranges::all_of(std::span(a).subspan(size),
                                                [](std::byte byte) { return byte == std::byte{0}; }));
                ASSERT_TRUE(std::ranges::all_of(std::span(b).subspan(size),
                                                [](std::byte byte) { return byte == std::byte{0xFF}; }));
            }
        }
    }
}

TEST_P(DeviceConformance, RunsOnAfterARestore) {
    for (const StateRecord& record : some_records()) {
        Rig rig = restored(record);
        ASSERT_TRUE(ok(rig.device().restored()));
        drive(rig, 9, 200);
        EXPECT_TRUE(restored(rig.save()).save() == rig.save());
    }
}

INSTANTIATE_TEST_SUITE_P(Every, DeviceConformance,
                         ::testing::ValuesIn(device_factories().begin(), device_factories().end()),
                         test::name_of_device_test);

TEST(DeviceRegistry, HasEveryKindFrom32OnceAndNoOther) {
    std::map<RecordKind, int> rows;
    for (const DeviceFactory& factory : device_factories()) {
        ++rows[factory.kind];
        EXPECT_GE(static_cast<int>(factory.kind), 32) << name_of(factory.kind);
    }
    for (int number = 32; number < 0x10000; ++number) {
        const auto kind = static_cast<RecordKind>(number);
        EXPECT_EQ(rows.contains(kind) ? rows[kind] : 0, name_of(kind) == "unknown" ? 0 : 1)
            << number << ' ' << name_of(kind);
    }
}

// A reader that builds no machine takes from record_owners() which records a snapshot must have.
TEST(DeviceRegistry, RecordOwnersAreItsDevices) {
    MachineConfig config;
    for (const DeviceConfig& devices : {DeviceConfig{}, all_devices()}) {
        config.devices = devices;
        std::vector<RecordOwner> owners = record_owners(config);
        std::vector<RecordOwner> wanted = {{RecordKind::clock, 0}, {RecordKind::vcpu, 0}};
        for (const DeviceFactory& factory : device_factories()) {
            for (std::uint32_t instance = 0; instance < factory.count(devices); ++instance) {
                wanted.push_back({factory.kind, instance});
            }
        }
        std::ranges::sort(owners);
        std::ranges::sort(wanted);
        EXPECT_EQ(owners, wanted);
    }
}

TEST(DeviceRegistry, BuildsTheInterruptControllerFirst) {
    FakeHost fake;
    DeviceHost host = fake.host();
    host.interrupts = nullptr;
    const auto first = device_factories().front().build(host, {}, {}, 0);
    ASSERT_TRUE(ok(first));
    EXPECT_NE(dynamic_cast<InterruptSink*>(first->device.get()), nullptr);
}

TEST(DeviceRegistry, RangesOverlapNeitherEachOtherNorMemory) {
    FakeHost fake;
    Bus ports(kPortLimit);
    Bus mmio(std::uint64_t{1} << 52);
    // `memory` has the largest RAM of a machine, its tables and KVM's LAPICs.
    Bus memory(std::uint64_t{1} << 52);
    std::vector<AttachedDevice> devices;
    for (const DeviceFactory& factory : device_factories()) {
        devices.push_back(*test::build_device(factory, fake, all_devices()));
        for (const BusRange& range : devices.back().ranges) {
            const std::string name(name_of(factory.kind));
            EXPECT_TRUE(ok(
                (range.kind == BusRange::Kind::port ? ports : mmio).add(range.base, range.size, *range.device, name)));
            if (range.kind == BusRange::Kind::mmio) {
                EXPECT_TRUE(ok(memory.add(range.base, range.size, *range.device, name)));
            }
        }
    }
    BusDevice& any = *devices.front().device;
    using namespace platform;
    EXPECT_TRUE(ok(memory.add(0, kHoleStart.value, any, "ram-low")));
    EXPECT_TRUE(ok(memory.add(kHoleEnd.value, kMaxMemory, any, "ram-high")));
    EXPECT_TRUE(ok(memory.add(kFirmwareBase.value, kFirmwareSize, any, "firmware")));
    EXPECT_TRUE(ok(memory.add(kVmGenIdBase.value, kVmGenIdSize, any, "vmgenid")));
    EXPECT_TRUE(ok(memory.add(kLapicBase.value, kPageSize, any, "lapic")));
}

}  // namespace
}  // namespace snapvm
