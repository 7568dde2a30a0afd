// SPDX-License-Identifier: Apache-2.0
// A device that ran adopts an earlier state in place, and then is the device that is restored from
// that state. Tested over the one list of devices.
#include <algorithm>
#include <string>

#include "tests/conformance/any_guest.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::AnyGuest;
using test::fails;
using test::ok;
using test::Rig;

/// A guest, the device's record and the memory at one instant.
struct Instant {
    AnyGuest guest{0};
    StateRecord record;
    std::vector<std::byte> memory;
};

/// How a device comes to the state that is saved, and to the one in which it adopts the other.
enum class Past : std::uint8_t { fresh, misused, busy, work_left };
constexpr std::array kPasts = {Past::fresh, Past::misused, Past::busy, Past::work_left};

class DeviceAdoption : public ::testing::TestWithParam<DeviceFactory> {
protected:
    [[nodiscard]] static const DeviceFactory& factory() { return GetParam(); }

    static Rig build(const StateRecord* record = nullptr) {
        auto rig = test::build_rig(factory(), record);
        EXPECT_TRUE(ok(rig));
        return *std::move(rig);
    }
    static void live(Rig& rig, AnyGuest& guest, Past past, std::uint32_t seed) {
        switch (past) {
            case Past::fresh: break;
            case Past::misused: drive(rig, seed, 300); break;
            case Past::busy:
            case Past::work_left:
                guest.start(rig);
                guest.work(rig, 12);
                break;
        }
        if (past == Past::work_left) {
            guest.leave_work(rig);
        }
        rig.quiesce();
    }
    static Instant save(const Rig& rig, const AnyGuest& guest) { return {guest, rig.save(), AnyGuest::memory(rig)}; }

    /// Goes on from `then` after restored() and returns all that can be seen of the device. Frames
    /// that wait in the tap are the host's, and no part of it.
    static std::vector<std::string> go_on(Rig& rig, const Instant& then) {
        AnyGuest guest = then.guest;
        guest.move_to(rig, then.memory);
        rig.host->loop->thaw();
        rig.run();
        EXPECT_TRUE(rig.host->log.empty()) << rig.host->log.front() << " before restored()";
        EXPECT_TRUE(rig.save() == then.record) << "it worked before restored()";
        EXPECT_TRUE(ok(rig.device().restored()));
        rig.run();
        std::vector<std::string> seen = {as_text(guest.work(rig, 12)), as_text(rig.save().bytes)};
        const bool random = rig.kind == RecordKind::virtio_rng;
        seen.push_back(as_text(AnyGuest::memory(rig, random ? AnyGuest::kData : AnyGuest::kEnd)));
        seen.push_back(as_text(drive(rig, 8, 200)));
        seen.push_back(rig.host->console);
        for (std::size_t i = 0; rig.tap != nullptr && i < rig.tap->sent.size(); ++i) {
            seen.push_back(as_text(rig.tap->sent[i]));
        }
        seen.insert(seen.end(), rig.host->log.begin(), rig.host->log.end());
        return seen;
    }
    static std::string as_text(const std::vector<std::byte>& bytes) {
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
    /// Clears what the device has done to its host.
    static void forget_host(Rig& rig) {
        rig.host->log.clear();
        rig.host->console.clear();
        if (rig.tap != nullptr) {
            rig.tap->sent.clear();
        }
        std::vector<std::byte> frame(Tap::kMaxFrame);
        for (std::size_t size = 0; rig.tap != nullptr && !rig.tap->waiting.empty();) {
            (void)rig.tap->read(frame, size);
        }
    }
};

TEST_P(DeviceAdoption, InPlaceItIsAsOneThatIsRestored) {
    for (const Past past : kPasts) {
        for (const Past since : kPasts) {
            SCOPED_TRACE(std::to_string(static_cast<int>(past)) + ", then " + std::to_string(static_cast<int>(since)));
            Rig rig = build();
            AnyGuest guest(1);
            live(rig, guest, past, 1);
            const Instant then = save(rig, guest);
            const auto parsed = rig.device().parse(then.record);
            ASSERT_TRUE(ok(parsed));

            rig.host->loop->thaw();
            live(rig, guest, since, 2);
            forget_host(rig);
            rig.device().adopt(**parsed);
            EXPECT_TRUE(rig.host->log.empty()) << "adopting sends nothing";
            EXPECT_TRUE(rig.save() == then.record);

            Rig restored = build(&then.record);
            const std::vector<std::string> wanted = go_on(restored, then);
            EXPECT_TRUE(go_on(rig, then) == wanted);
            // What has run on from the state adopts it again.
            rig.quiesce();
            forget_host(rig);
            rig.device().adopt(**parsed);
            EXPECT_TRUE(rig.save() == then.record);
            EXPECT_TRUE(go_on(rig, then) == wanted) << "the second time";
        }
    }
}

// The tests above would pass for a device that never changes.
TEST_P(DeviceAdoption, TheGuestChangesTheState) {
    Rig rig = build();
    const StateRecord before = rig.save();
    AnyGuest guest(1);
    live(rig, guest, Past::busy, 1);
    rig.host->loop->thaw();
    if (rig.attached.ranges.empty()) {
        ASSERT_TRUE(ok(rig.device().restored()));
    }
    bool changed = !(rig.save() == before);
    for (std::uint32_t seed = 1; seed < 9 && !changed; ++seed) {
        drive(rig, seed, 200);
        changed = !(rig.save() == before);
    }
    EXPECT_TRUE(changed);
    if (is_virtio(rig.kind)) {
        test::MmioDriver driver(rig.device());
        EXPECT_FALSE(driver.needs_reset()) << "the guest's requests are valid";
    }
}

TEST_P(DeviceAdoption, ParsingTouchesNothing) {
    for (const Past past : {Past::misused, Past::work_left}) {
        Rig rig = build();
        AnyGuest guest(1);
        live(rig, guest, past, 1);
        Rig other = build();
        AnyGuest other_guest(2);
        live(other, other_guest, Past::busy, 2);
        const StateRecord foreign = other.save();
        const Instant then = save(rig, guest);
        const auto log = rig.host->log;

        EXPECT_TRUE(ok(rig.device().parse(foreign)));
        for (std::size_t size = 0; size < foreign.bytes.size(); ++size) {
            StateRecord cut = foreign;
            cut.bytes.resize(size);
            EXPECT_TRUE(fails(rig.device().parse(cut), ErrorKind::invalid)) << size;
        }
        unsigned refused = 0;
        for (std::size_t at = 0; at < foreign.bytes.size(); ++at) {
            StateRecord changed = foreign;
            changed.bytes[at] ^= std::byte{0xFF};
            if (const auto parsed = rig.device().parse(changed); !parsed) {
                EXPECT_EQ(parsed.error().kind(), ErrorKind::invalid);
                ++refused;
            }
        }
        EXPECT_EQ(rig.host->log, log);
        EXPECT_TRUE(rig.save() == then.record);
        EXPECT_TRUE(AnyGuest::memory(rig) == then.memory);
        EXPECT_TRUE(refused > 0 || !is_virtio(rig.kind)) << "no bad register was refused";
    }
}

INSTANTIATE_TEST_SUITE_P(Every, DeviceAdoption,
                         ::testing::ValuesIn(device_factories().begin(), device_factories().end()),
                         test::name_of_device_test);

}  // namespace
}  // namespace snapvm
