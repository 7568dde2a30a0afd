// SPDX-License-Identifier: Apache-2.0
// The fuzzer's seeds for devices' records (tests/fuzz/make_corpus.py) must be accepted. A change of
// a record's contents needs a change of the seeds.
#include <filesystem>

#include "tests/conformance/fake_host.h"
#include "tests/support/paths.h"
#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"

namespace snapvm {
namespace {

TEST(DeviceSeeds, EachDeviceHasOneThatItAccepts) {
    const std::filesystem::path folder = test::source_folder() + "/tests/fuzz/corpus/state_record";
    test::FakeHost host;
    for (const DeviceFactory& factory : device_factories()) {
        const std::string name(name_of(factory.kind));
        unsigned seeds = 0;
        for (const auto& entry : std::filesystem::directory_iterator(folder)) {
            const std::string file = entry.path().filename().string();
            if (!file.starts_with(name)) {
                continue;
            }
            const std::string text = *read_file(entry.path().string(), 1 << 20);
            ASSERT_FALSE(text.empty());
            ASSERT_EQ(static_cast<RecordKind>(static_cast<unsigned char>(text[0])), factory.kind) << file;
            const auto bytes = std::as_bytes(std::span(text).subspan(1));
            const StateRecord record{factory.kind, factory.state_version, 0, {bytes.begin(), bytes.end()}};
            EXPECT_TRUE(test::ok(test::build_device(factory, host, test::all_devices(), &record))) << file;
            ++seeds;
        }
        EXPECT_GT(seeds, 0U) << name << " has no seed";
    }
}

}  // namespace
}  // namespace snapvm
