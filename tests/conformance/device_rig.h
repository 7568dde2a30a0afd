// SPDX-License-Identifier: Apache-2.0
// One device on a host of its own, for tests that run over all devices.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/conformance/fake_host.h"

namespace snapvm::test {

/// A device and the host it runs on.
struct Rig {
    RecordKind kind{};
    std::unique_ptr<FakeHost> host = std::make_unique<FakeHost>();
    FakeTap* tap = nullptr;  ///< of a network device
    AttachedDevice attached;

    [[nodiscard]] Device& device() const { return *attached.device; }
    [[nodiscard]] StateRecord save() const { return device().save(); }
    /// Runs the event loop until there is nothing to do and nothing is in flight.
    void run() const {
        while (host->loop->run_pending()) {
        }
        quiesce();
        host->loop->thaw();
    }
    /// Holds new work and waits for what is in flight, as a machine does before it is saved.
    void quiesce() const {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
        EXPECT_TRUE(host->loop->quiesce(deadline)) << "a request has not ended";
    }
};

/// Builds a device, with the state of a record if there is one.
inline Result<Rig> build_rig(const DeviceFactory& factory, const StateRecord* record = nullptr) {
    Rig rig;
    rig.kind = factory.kind;
    auto attached = build_device(factory, *rig.host, all_devices(), record);
    if (!attached) {
        return fail(attached.error());
    }
    rig.attached = *std::move(attached);
    rig.tap = factory.kind == RecordKind::virtio_net ? FakeTap::latest : nullptr;
    return rig;
}

/// Reads and writes at random places of the device's ranges, in every size and at odd offsets, as a
/// bad driver would. No access crosses a range's end, which the bus ensures. Returns all that was
/// read.
inline std::vector<std::byte> drive(Rig& rig, std::uint32_t seed, int accesses) {
    constexpr std::array<std::size_t, 4> kSizes = {1, 2, 4, 8};
    std::mt19937 random(seed);
    rig.host->sometimes_full.emplace(seed);
    std::vector<std::byte> seen;
    if (rig.attached.ranges.empty()) {
        return seen;
    }
    for (int i = 0; i < accesses; ++i) {
        const BusRange& range = rig.attached.ranges[random() % rig.attached.ranges.size()];
        const std::size_t size = kSizes[random() % kSizes.size()];
        if (size > range.size) {
            continue;
        }
        // Registers are at the front of a large range, so half of the accesses go there.
        const std::uint64_t reach = random() % 2 == 0 ? std::min<std::uint64_t>(range.size, 0x48) : range.size;
        const std::uint64_t offset = random() % (std::max(reach, size) - size + 1);
        std::array<std::byte, 8> data;
        std::ranges::generate(data, [&] { return static_cast<std::byte>(random()); });
        if (random() % 2 == 0) {
            range.device->read(offset, std::span(data).first(size));
            seen.insert(seen.end(), data.begin(), data.begin() + static_cast<std::ptrdiff_t>(size));
        } else {
            range.device->write(offset, std::span(data).first(size));
        }
        while (rig.host->loop->run_pending()) {
        }
    }
    rig.host->sometimes_full.reset();
    return seen;
}

/// Returns the name of a device's kind, for the names of tests that run over all devices.
inline std::string name_of_device_test(const ::testing::TestParamInfo<DeviceFactory>& instance) {
    std::string name(name_of(instance.param.kind));
    std::ranges::replace(name, '-', '_');
    return name;
}

}  // namespace snapvm::test
