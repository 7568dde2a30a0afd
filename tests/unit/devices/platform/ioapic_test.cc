// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/ioapic/ioapic.h"

#include "tests/conformance/fake_host.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::ok;

constexpr std::uint32_t kLevel = 1U << 15;
constexpr std::uint32_t kMasked = 1U << 16;
constexpr std::uint32_t kRemoteIrr = 1U << 14;
constexpr std::uint32_t kLogical = 1U << 11;

class IoApicTest : public ::testing::Test {
protected:
    void set(std::uint32_t index, std::uint32_t value) {
        test::write_device(*ioapic_, 0x00, index, 4);
        test::write_device(*ioapic_, 0x10, value, 4);
    }
    [[nodiscard]] std::uint32_t get(std::uint32_t index) {
        test::write_device(*ioapic_, 0x00, index, 4);
        return static_cast<std::uint32_t>(test::read_device(*ioapic_, 0x10, 4));
    }
    void redirect(std::uint32_t pin, std::uint32_t low, std::uint32_t destination = 0) {
        set(0x11 + 2 * pin, destination << 24);
        set(0x10 + 2 * pin, low);
    }
    [[nodiscard]] std::uint32_t entry(std::uint32_t pin) { return get(0x10 + 2 * pin); }
    [[nodiscard]] std::size_t sent() const { return host_.messages.size(); }
    void save_and_restore() {
        auto restored = test::restore_device<IoApic>(ioapic_->save(), host_.host());
        ASSERT_TRUE(ok(restored));
        ioapic_ = *std::move(restored);
        ASSERT_TRUE(ok(ioapic_->restored()));
    }

    test::FakeHost host_;
    std::unique_ptr<IoApic> ioapic_ = std::make_unique<IoApic>(host_.host());
};

TEST_F(IoApicTest, IdentifiesItself) {
    EXPECT_EQ(get(0x01), 0x00170020U);  // 24 pins; version 0x20 has the EOI register
    set(0x00, 0xFFFFFFFF);
    EXPECT_EQ(get(0x00), 0x0F000000U);
    EXPECT_EQ(get(0x02), 0x0F000000U);
    set(0x01, 0);
    EXPECT_EQ(get(0x01), 0x00170020U);
}

TEST_F(IoApicTest, EveryPinIsMaskedAfterReset) {
    for (std::uint32_t pin = 0; pin < 24; ++pin) {
        EXPECT_EQ(entry(pin), kMasked);
        ioapic_->set_level(pin, true);
    }
    EXPECT_EQ(sent(), 0U);
}

TEST_F(IoApicTest, RegistersBeyondTheTableAreNobodys) {
    EXPECT_EQ(get(0x40), 0xFFFFFFFFU);
    EXPECT_EQ(get(0xFF), 0xFFFFFFFFU);
    EXPECT_EQ(get(0x03), 0xFFFFFFFFU);
    set(0x40, 0x31);
    set(0x0F, 0x31);
    ioapic_->set_level(24, true);
    ioapic_->set_level(0xFFFFFFFF, true);
    EXPECT_EQ(sent(), 0U);
}

TEST_F(IoApicTest, ReadOnlyAndReservedBitsAreKeptOut) {
    redirect(7, 0xFFFFFFFF, 0xAB);
    EXPECT_EQ(entry(7), 0x0001AFFFU);  // neither delivery status nor remote IRR
    EXPECT_EQ(get(0x11 + 2 * 7), 0xAB000000U);
    set(0x11 + 2 * 7, 0xFFFFFFFF);
    EXPECT_EQ(get(0x11 + 2 * 7), 0xFF000000U);
}

TEST_F(IoApicTest, EdgeIsSentOncePerRise) {
    redirect(4, 0x31);
    ioapic_->set_level(4, true);
    EXPECT_EQ(host_.messages, (std::vector<MsiMessage>{{0xFEE00000, 0x31}}));
    ioapic_->set_level(4, true);
    EXPECT_EQ(sent(), 1U);
    ioapic_->set_level(4, false);
    EXPECT_EQ(sent(), 1U);
    ioapic_->pulse(4);
    EXPECT_EQ(sent(), 2U);
    EXPECT_EQ(entry(4) & kRemoteIrr, 0U);
}

TEST_F(IoApicTest, MessageCarriesVectorModeAndDestination) {
    redirect(3, 0x100 | kLogical | 0x55, 0x0C);  // lowest priority
    ioapic_->set_level(3, true);
    redirect(5, 0x400, 0x02);  // NMI
    ioapic_->set_level(5, true);
    redirect(6, kLevel | 0x66, 0xFF);
    ioapic_->set_level(6, true);
    EXPECT_EQ(host_.messages,
              (std::vector<MsiMessage>{{0xFEE0C004, 0x155}, {0xFEE02000, 0x400}, {0xFEEFF000, 0xC066}}));
}

TEST_F(IoApicTest, EdgeBehindAMaskIsLost) {
    redirect(4, kMasked | 0x31);
    ioapic_->set_level(4, true);
    redirect(4, 0x31);
    EXPECT_EQ(sent(), 0U);
    ioapic_->set_level(4, false);
    ioapic_->set_level(4, true);
    EXPECT_EQ(sent(), 1U);
}

TEST_F(IoApicTest, LevelBehindAMaskFiresWhenTheMaskGoes) {
    redirect(9, kMasked | kLevel | 0x39);
    ioapic_->set_level(9, true);
    EXPECT_EQ(sent(), 0U);
    redirect(9, kLevel | 0x39);
    EXPECT_EQ(sent(), 1U);
    EXPECT_NE(entry(9) & kRemoteIrr, 0U);
}

TEST_F(IoApicTest, LevelIsHeldByRemoteIrrUntilItsEoiAndFiresAgainWhileHigh) {
    redirect(9, kLevel | 0x39);
    ioapic_->set_level(9, true);
    EXPECT_EQ(sent(), 1U);
    ioapic_->set_level(9, false);
    ioapic_->set_level(9, true);
    EXPECT_EQ(sent(), 1U);
    ioapic_->end_of_interrupt(0x38);
    EXPECT_EQ(sent(), 1U);
    ioapic_->end_of_interrupt(0x39);
    EXPECT_EQ(sent(), 2U);
    ioapic_->set_level(9, false);
    ioapic_->end_of_interrupt(0x39);
    EXPECT_EQ(sent(), 2U);
    EXPECT_EQ(entry(9) & kRemoteIrr, 0U);
    ioapic_->end_of_interrupt(0x39);
    EXPECT_EQ(sent(), 2U);
}

TEST_F(IoApicTest, DirectedEoiIsAnEoi) {
    redirect(9, kLevel | 0x39);
    ioapic_->set_level(9, true);
    test::write_device(*ioapic_, 0x40, 0x39, 4);
    EXPECT_EQ(sent(), 2U);
    EXPECT_EQ(test::read_device(*ioapic_, 0x40, 4), 0U);
}

TEST_F(IoApicTest, EoiReachesAllPinsOfAVectorAndNoEdgeOnes) {
    redirect(9, kLevel | 0x39);
    redirect(10, kLevel | 0x39);
    redirect(11, 0x39);
    for (const std::uint32_t pin : {9U, 10U, 11U}) {
        ioapic_->set_level(pin, true);
    }
    EXPECT_EQ(sent(), 3U);
    ioapic_->end_of_interrupt(0x39);
    EXPECT_EQ(sent(), 5U);
}

TEST_F(IoApicTest, GuestCannotWriteRemoteIrrButClearsAStuckOneThroughEdge) {
    redirect(9, kLevel | 0x39);
    ioapic_->set_level(9, true);
    redirect(9, kLevel | kMasked | 0x39);
    EXPECT_NE(entry(9) & kRemoteIrr, 0U);
    redirect(9, kMasked | 0x39);
    EXPECT_EQ(entry(9) & kRemoteIrr, 0U);
    redirect(9, kLevel | 0x39);
    EXPECT_EQ(sent(), 2U);
}

// Each costs KVM 0.3 ms, so a machine with edge-triggered pins only never publishes.
TEST_F(IoApicTest, RoutesArePublishedForLevelTriggeredPinsOnly) {
    redirect(4, 0x31);
    redirect(5, 0x35);
    redirect(5, 0x36);
    redirect(9, kMasked | kLevel | 0x39);
    EXPECT_TRUE(host_.published.empty());
    redirect(9, kLevel | 0x39, 0x01);
    ASSERT_FALSE(host_.published.empty());
    ASSERT_EQ(host_.published.back().size(), 24U);
    EXPECT_EQ(host_.published.back()[9], (MsiMessage{0xFEE01000, 0xC039}));
    EXPECT_EQ(host_.published.back()[4], (MsiMessage{0xFEE00000, 0x31}));
    const std::size_t before = host_.published.size();
    redirect(9, kLevel | 0x39, 0x01);
    EXPECT_EQ(host_.published.size(), before);
    redirect(9, kLevel | 0x3A, 0x01);
    EXPECT_EQ(host_.published.back()[9].data, 0xC03AU);
}

// KVM must know the vector before the interrupt is there, or its EOI goes unreported.
TEST_F(IoApicTest, RoutesArePublishedBeforeThePinFires) {
    redirect(9, kMasked | kLevel | 0x39);
    ioapic_->set_level(9, true);
    host_.log.clear();
    redirect(9, kLevel | 0x39);
    ASSERT_EQ(host_.log.size(), 2U);
    EXPECT_EQ(host_.log.front(), "routes");
}

TEST_F(IoApicTest, ALevelInterruptInServiceSurvivesAndItsRoutesArePublishedAgain) {
    redirect(9, kLevel | 0x39);
    ioapic_->set_level(9, true);
    const std::size_t before = host_.published.size();
    save_and_restore();
    EXPECT_EQ(host_.published.size(), before + 1);
    EXPECT_EQ(sent(), 1U);
    ioapic_->end_of_interrupt(0x39);
    EXPECT_EQ(sent(), 2U);
}

// Putting a machine back to its snapshot again and again must not cost 0.3 ms each time.
TEST_F(IoApicTest, RoutesThatKvmHasAreNotSetAgain) {
    redirect(9, kLevel | 0x39);
    const StateRecord record = ioapic_->save();
    const std::size_t before = host_.published.size();
    for (int times = 0; times < 3; ++times) {
        ASSERT_TRUE(ok(test::adopt_record(*ioapic_, record)));
        ASSERT_TRUE(ok(ioapic_->restored()));
    }
    EXPECT_EQ(host_.published.size(), before);
    redirect(9, kLevel | 0x3A);
    EXPECT_EQ(host_.published.size(), before + 1);
    ASSERT_TRUE(ok(test::adopt_record(*ioapic_, record)));
    ASSERT_TRUE(ok(ioapic_->restored()));
    EXPECT_EQ(host_.published.back()[9].data, 0xC039U) << "the other state's";
}

TEST_F(IoApicTest, APinThatWasHighIsNoNewEdgeAfterARestore) {
    redirect(4, 0x31);
    ioapic_->set_level(4, true);
    save_and_restore();
    EXPECT_TRUE(host_.published.empty());
    ioapic_->set_level(4, true);
    EXPECT_EQ(sent(), 1U);
    ioapic_->set_level(4, false);
    ioapic_->set_level(4, true);
    EXPECT_EQ(sent(), 2U);
}

TEST_F(IoApicTest, AStateItCannotBeInIsRefused) {
    const auto refused = [](auto change) {
        IoApicStateV1 state;
        change(state);
        return test::fails(IoApicStateV1::decode(state.encode()), ErrorKind::invalid);
    };
    EXPECT_TRUE(refused([](IoApicStateV1& state) { state.levels = 1U << 24; }));
    EXPECT_TRUE(refused([](IoApicStateV1& state) { state.id = 16; }));
    EXPECT_TRUE(refused([](IoApicStateV1& state) { state.redirection[23] = 1U << 17; }));
    // of an edge: it would never fire again
    EXPECT_TRUE(refused([](IoApicStateV1& state) { state.redirection[0] = kRemoteIrr; }));
}

}  // namespace
}  // namespace snapvm
