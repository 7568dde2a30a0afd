// SPDX-License-Identifier: Apache-2.0
// Any bytes for every decoder of machine state. The first byte chooses the decoder: the number of a
// record's kind, or 0 for the configuration. An accepted input must encode to the same bytes, and a
// device that has adopted it must survive accesses, and then adopt it again.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "tests/conformance/fake_host.h"
#include "vmm/config/machine_config.h"
#include "vmm/vcpu/vcpu_state.h"

namespace {

using namespace snapvm;

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

void try_device(const DeviceFactory& factory, const std::vector<std::byte>& bytes) {
    static test::FakeHost host;
    host.log.clear();
    const StateRecord record{factory.kind, factory.state_version, 0, bytes};
    auto attached = test::build_device(factory, host, test::all_devices());
    require(attached.has_value());
    const auto parsed = attached->device->parse(record);
    if (!parsed) {
        return;
    }
    attached->device->adopt(**parsed);
    require(attached->device->save() == record);
    require(attached->device->restored().has_value());
    for (const BusRange& range : attached->ranges) {
        for (std::uint64_t offset = 0; offset < range.size && offset < 0x50; ++offset) {
            std::array<std::byte, 1> data{};
            range.device->read(offset, data);
            range.device->write(offset, data);
        }
    }
    const StateRecord after = attached->device->save();
    require(attached->device->parse(after).has_value());
    attached->device->adopt(**parsed);
    require(attached->device->save() == record);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const auto input = std::as_bytes(std::span(data, size)).subspan(1);
    const std::vector<std::byte> bytes(input.begin(), input.end());
    const auto kind = static_cast<RecordKind>(data[0]);
    if (data[0] == 0) {
        if (const auto config = MachineConfig::decode(bytes)) {
            // An older version is written as the newest.
            const bool newest = bytes.front() == std::byte{3};
            require((config->encode() == bytes || !newest) && config->validate().has_value());
        }
    } else if (kind == RecordKind::vcpu) {
        if (const auto state = VcpuStateV1::decode(bytes)) {
            require(state->encode() == bytes);
        }
    } else if (const auto factory = std::ranges::find(device_factories(), kind, &DeviceFactory::kind);
               factory != device_factories().end()) {
        try_device(*factory, bytes);
    }
    return 0;
}
