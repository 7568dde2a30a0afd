// SPDX-License-Identifier: Apache-2.0
// A record that an earlier version wrote must build its device.
#include <filesystem>
#include <set>

#include "tests/conformance/fake_host.h"
#include "tests/support/old_versions.h"
#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"
#include "vmm/config/machine_config.h"

namespace snapvm {
namespace {

using test::ok;

const DeviceFactory* factory_of(RecordKind kind) {
    for (const DeviceFactory& factory : device_factories()) {
        if (factory.kind == kind) {
            return &factory;
        }
    }
    return nullptr;
}

TEST(OldRecords, BuildTheirDeviceAndAreSavedAgain) {
    ASSERT_FALSE(test::old_records().empty());
    for (const auto& folder : test::old_records()) {
        std::set<RecordKind> kinds;
        for (const auto& entry : std::filesystem::directory_iterator(folder)) {
            SCOPED_TRACE(entry.path().string());
            const std::string text = *read_file(entry.path().string(), 1 << 20);
            ASSERT_FALSE(text.empty());
            const auto kind = static_cast<RecordKind>(static_cast<unsigned char>(text[0]));
            const auto bytes = std::as_bytes(std::span(text).subspan(1));
            const StateRecord record{kind, 1, 0, {bytes.begin(), bytes.end()}};
            if (static_cast<unsigned>(kind) == 0) {
                const auto config = MachineConfig::decode(bytes);
                EXPECT_TRUE(ok(config));
                continue;
            }
            const DeviceFactory* factory = factory_of(kind);
            if (factory == nullptr) {
                EXPECT_EQ(kind, RecordKind::vcpu) << "no device reads it";
                continue;
            }
            test::FakeHost host;
            const auto attached = test::build_device(*factory, host, test::all_devices(), &record);
            ASSERT_TRUE(ok(attached));
            // A version that writes another form reads this one and saves the other.
            if (factory->state_version == record.version) {
                EXPECT_EQ(attached->device->save(), record);
            }
            kinds.insert(kind);
        }
        EXPECT_GE(kinds.size(), 13U) << folder;
    }
}

}  // namespace
}  // namespace snapvm
