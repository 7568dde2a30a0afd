// SPDX-License-Identifier: Apache-2.0
// A counter that a device declares reaches GET /stats, and no other place has to know of it.
#include <array>

#include "tests/unit/vmm/api/fake_service.h"
#include "tests/unit/vmm/api/schema_check.h"
#include "vmm/machine/device_set.h"

namespace snapvm::api::test {
namespace {

class CountingDevice final : public Device {
public:
    void read(std::uint64_t /*offset*/, std::span<std::byte> /*data*/) override { ++reads_; }
    void write(std::uint64_t /*offset*/, std::span<const std::byte> data) override { written_bytes_ += data.size(); }
    [[nodiscard]] StateRecord save() const override { return {}; }
    Result<std::unique_ptr<const ParsedState>> parse(const StateRecord& /*record*/) const override {
        return fail(ErrorKind::invalid, "it has no state");
    }
    void adopt(const ParsedState& /*state*/) noexcept override {}

private:
    Counter reads_{counters_, "reads"};
    Counter written_bytes_{counters_, "written_bytes"};
};

using ApiCounters = ServerTest;

TEST_F(ApiCounters, OfADeviceAreInTheAnswer) {
    std::vector<DeviceSet::Entry> devices(1);
    devices[0].factory = &device_factories().front();
    devices[0].instance = 2;
    devices[0].attached.device = std::make_unique<CountingDevice>();
    std::array<std::byte, 4> data{};
    for (int i = 0; i < 3; ++i) {
        devices[0].attached.device->read(0, data);
        devices[0].attached.device->write(0, data);
    }
    service.counters = counters_of(devices);
    start();
    const std::string body = ask("GET", "/stats").body;
    const std::string part = std::string(name_of(device_factories().front().kind)) + "-2";
    EXPECT_EQ(nlohmann::json::parse(body)["counters"], (nlohmann::json{{part, {{"reads", 3}, {"written_bytes", 12}}}}));
    EXPECT_EQ(answer_mismatch(load_openapi(), "/stats", "get", 200, body), "");
}

}  // namespace
}  // namespace snapvm::api::test
