// SPDX-License-Identifier: Apache-2.0
// The ledger guest's drivers, which are written from the virtio specification alone, on our
// devices. They test the devices independently, over snapshots too.
#include <set>

#include "guest-images/ledger/abi.h"
#include "tests/kvm/ledger_guest.h"
#include "vmm/platform/platform.h"

namespace snapvm::test {
namespace {

// The guest finds the devices where PLATFORM.md says.
static_assert(VIRTIO_BASE == platform::kVirtioBase.value && VIRTIO_STRIDE == platform::kVirtioStride);
static_assert(VIRTIO_PIN == platform::kVirtioGsi && VIRTIO_PIN + VIRTIO_DEVICES == platform::kIoApicPins);

struct Rings {
    std::uint32_t cpus;
    bool plain;  ///< without event indexes and indirect descriptors
};

class LedgerRng : public KvmTest, public ::testing::WithParamInterface<Rings> {
protected:
    static std::unique_ptr<Machine> boot() {
        const std::string cmdline = std::string("ws=1M") + (GetParam().plain ? " virtio=plain" : "");
        LedgerOptions options{.cpus = GetParam().cpus, .cmdline = cmdline};
        options.devices.rng = true;
        return boot_ledger(options);
    }
};

TEST_P(LedgerRng, DrawsAndIsInterrupted) {
    const auto machine = boot();
    std::set<std::string> values;
    for (std::uint64_t draws = 1; draws <= 20; ++draws) {
        const RngLine line = draw(*machine);
        ASSERT_EQ(line.bytes, 64U) << line.text;
        values.insert(line.value);
        if (!GetParam().plain) {
            // The driver requests an interrupt at the last of its requests, and makes all with one
            // notification.
            EXPECT_EQ(line.interrupts, draws) << line.text;
            EXPECT_EQ(line.notifications, draws) << line.text;
        }
    }
    EXPECT_EQ(values.size(), 20U);
    expect_sound_end(*machine);
}

// The driver's rings and the device's view of them come back together at any moment. Clones draw
// different numbers.
TEST_P(LedgerRng, GoesOnOverSnapshotsAndRestores) {
    std::unique_ptr<Machine> machine = boot();
    std::set<std::string> values;
    std::uint64_t draws = 0;
    for (int moment = 0; moment < 10; ++moment) {
        SCOPED_TRACE(moment);
        // The first snapshot is made before the driver knows the device, later ones while it draws.
        if (moment > 0) {
            send(*machine, "nnn");
        }
        run_a_while(2ms);
        snapshot(*machine, area(moment % 2 == 0 ? "even" : "odd"));
        draws += moment > 0 ? 3 : 0;
        std::unique_ptr<Machine> clone = restore(area(moment % 2 == 0 ? "even" : "odd"));
        need(clone->resume());
        for (Machine* each : {machine.get(), clone.get()}) {
            ASSERT_NO_FATAL_FAILURE(settle(*each));
            const RngLine line = draw(*each);
            ASSERT_EQ(line.bytes, 64U) << line.text;
            EXPECT_TRUE(values.insert(line.value).second) << line.text;
        }
        ++draws;
        machine = std::move(clone);
    }
    // No draw was lost, and none was answered by two interrupts.
    const RngLine line = draw(*machine);
    EXPECT_TRUE(GetParam().plain || line.interrupts == draws + 1) << line.text;
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Rings, LedgerRng,
                         ::testing::Values(Rings{1, false}, Rings{1, true}, Rings{4, false}, Rings{4, true}),
                         [](const auto& test) {
                             return std::to_string(test.param.cpus) + (test.param.plain ? "plain" : "full");
                         });

TEST_F(KvmTest, ALedgerWithoutTheDeviceSaysSo) {
    const auto machine = boot_ledger({.cpus = 1, .cmdline = "ws=1M"});
    std::uint64_t position = machine->serial().output().end();
    send(*machine, "n");
    EXPECT_TRUE(wait_line(*machine, "LEDGER RNG none", position).has_value());
    expect_sound_end(*machine);
}

}  // namespace
}  // namespace snapvm::test
