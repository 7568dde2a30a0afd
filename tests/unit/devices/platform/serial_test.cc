// SPDX-License-Identifier: Apache-2.0
// The 16550A as its drivers know it (PC16550D data sheet, section 8).
#include "devices/platform/serial/serial.h"

#include "tests/conformance/fake_host.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::ok;

constexpr std::uint32_t kGsi = 4;
enum Port : std::uint64_t { kData, kIer, kIir, kLcr, kMcr, kLsr, kMsr, kScratch };
constexpr std::uint64_t kFcr = kIir;
constexpr std::uint8_t kIrqToPc = 0x08;  // MCR OUT2
constexpr std::uint8_t kLoop = 0x10;
constexpr std::uint8_t kRxInterrupt = 0x01;
constexpr std::uint8_t kTxInterrupt = 0x02;
constexpr std::uint8_t kLineInterrupt = 0x04;
constexpr std::uint8_t kNone = 0x01;
constexpr std::uint8_t kTxEmpty = 0x02;
constexpr std::uint8_t kRxReady = 0x04;
constexpr std::uint8_t kLineStatus = 0x06;

class SerialTest : public ::testing::Test {
protected:
    [[nodiscard]] std::uint64_t in(std::uint64_t port) { return test::read_device(*serial_, port); }
    void out(std::uint64_t port, std::uint8_t value) { test::write_device(*serial_, port, value); }
    std::size_t receive(std::string_view text) {
        return serial_->receive({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
    }
    [[nodiscard]] bool interrupt() const { return host_.high(kGsi); }
    /// Saves the device and goes on with a new one from that state.
    void save_and_restore() {
        const StateRecord record = serial_->save();
        auto restored = test::restore_device<Serial>(record, host_.host(), kGsi);
        ASSERT_TRUE(ok(restored));
        serial_ = *std::move(restored);
        ASSERT_TRUE(ok(serial_->restored()));
    }

    test::FakeHost host_;
    std::unique_ptr<Serial> serial_ = std::make_unique<Serial>(host_.host(), kGsi);
};

TEST_F(SerialTest, IsIdleAfterReset) {
    EXPECT_EQ(in(kIer), 0x00U);
    EXPECT_EQ(in(kIir), kNone);
    EXPECT_EQ(in(kLcr), 0x00U);
    EXPECT_EQ(in(kMcr), 0x00U);
    EXPECT_EQ(in(kLsr), 0x60U);
    EXPECT_EQ(in(kMsr), 0xB0U);
    EXPECT_EQ(in(kData), 0x00U);
    EXPECT_FALSE(interrupt());
}

TEST_F(SerialTest, WritesGoToTheOutputAtOnce) {
    for (const char letter : std::string_view("hello")) {
        EXPECT_EQ(in(kLsr) & 0x60, 0x60U);
        out(kData, static_cast<std::uint8_t>(letter));
    }
    EXPECT_EQ(host_.output, "hello");
}

TEST_F(SerialTest, DivisorLatchHidesDataAndInterruptEnable) {
    out(kIer, 0x05);
    out(kLcr, 0x83);
    out(kData, 0x0C);
    out(kIer, 0x01);
    EXPECT_EQ(in(kData), 0x0CU);
    EXPECT_EQ(in(kIer), 0x01U);
    EXPECT_EQ(host_.output, "");
    out(kLcr, 0x03);
    EXPECT_EQ(in(kIer), 0x05U);
    EXPECT_EQ(in(kData), 0x00U);
    out(kLcr, 0x83);
    EXPECT_EQ(in(kData), 0x0CU);
}

TEST_F(SerialTest, ScratchAndUnusedBitsReadAsTheChips) {
    out(kScratch, 0xA5);
    EXPECT_EQ(in(kScratch), 0xA5U);
    out(kIer, 0xFF);
    EXPECT_EQ(in(kIer), 0x0FU);
    out(kMcr, 0xFF);
    EXPECT_EQ(in(kMcr), 0x1FU);
    out(kLsr, 0xFF);
    EXPECT_EQ(in(kLsr), 0x60U);
}

// How drivers tell a 16550A from an 8250 and a 16450.
TEST_F(SerialTest, FifoShowsInInterruptIdentification) {
    EXPECT_EQ(in(kIir) & 0xC0, 0x00U);
    out(kFcr, 0x01);
    EXPECT_EQ(in(kIir) & 0xC0, 0xC0U);
    out(kFcr, 0x00);
    EXPECT_EQ(in(kIir) & 0xC0, 0x00U);
}

TEST_F(SerialTest, FifoTakesSixteenBytesAndGivesThemInOrder) {
    EXPECT_EQ(receive("0123456789abcdefXYZ"), 16U);
    EXPECT_EQ(receive("X"), 0U);
    for (const char letter : std::string_view("0123456789abcdef")) {
        EXPECT_EQ(in(kLsr) & 0x01, 0x01U);
        EXPECT_EQ(in(kData), static_cast<std::uint8_t>(letter));
    }
    EXPECT_EQ(in(kLsr) & 0x01, 0x00U);
    EXPECT_EQ(receive("XYZ"), 3U);
}

TEST_F(SerialTest, FifoIsClearedByItsControlRegister) {
    receive("abc");
    out(kFcr, 0x03);
    EXPECT_EQ(in(kLsr) & 0x01, 0x00U);
    EXPECT_EQ(receive("0123456789abcdef"), 16U);
}

TEST_F(SerialTest, ReceiveInterruptLastsUntilTheFifoIsEmpty) {
    out(kMcr, kIrqToPc);
    out(kIer, kRxInterrupt);
    EXPECT_FALSE(interrupt());
    receive("ab");
    EXPECT_TRUE(interrupt());
    EXPECT_EQ(in(kIir), kRxReady);
    EXPECT_EQ(in(kIir), kRxReady);
    EXPECT_EQ(in(kData), 'a');
    EXPECT_TRUE(interrupt());
    EXPECT_EQ(in(kData), 'b');
    EXPECT_FALSE(interrupt());
    EXPECT_EQ(in(kIir), kNone);
}

TEST_F(SerialTest, InterruptsReachThePinOnlyThroughOut2) {
    out(kIer, kRxInterrupt);
    receive("a");
    EXPECT_FALSE(interrupt());
    EXPECT_EQ(in(kIir), kRxReady);
    out(kMcr, kIrqToPc);
    EXPECT_TRUE(interrupt());
    out(kMcr, 0);
    EXPECT_FALSE(interrupt());
}

TEST_F(SerialTest, TransmitInterruptComesWithItsEnableAndGoesWithIir) {
    out(kMcr, kIrqToPc);
    out(kIer, kTxInterrupt);
    EXPECT_TRUE(interrupt());
    EXPECT_EQ(in(kIir), kTxEmpty);
    EXPECT_FALSE(interrupt());
    EXPECT_EQ(in(kIir), kNone);
}

// One edge for each byte: a driver that writes a byte an interrupt would hang otherwise.
TEST_F(SerialTest, TransmitInterruptComesAgainAfterEachByte) {
    out(kMcr, kIrqToPc);
    out(kIer, kTxInterrupt);
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(in(kIir), kTxEmpty);
        const int edges = host_.edges;
        out(kData, 'x');
        EXPECT_TRUE(interrupt());
        EXPECT_EQ(host_.edges, edges + 1);
    }
}

// Linux' test for chips that do not raise it again: off and on must.
TEST_F(SerialTest, TransmitInterruptComesAgainWhenSwitchedOffAndOn) {
    out(kIer, kTxInterrupt);
    EXPECT_EQ(in(kIir), kTxEmpty);
    out(kIer, 0);
    EXPECT_EQ(in(kIir), kNone);
    out(kIer, kTxInterrupt);
    EXPECT_EQ(in(kIir), kTxEmpty);
}

TEST_F(SerialTest, ReadingIirAcknowledgesOnlyWhatItShows) {
    out(kMcr, kIrqToPc);
    receive("a");
    out(kIer, kRxInterrupt | kTxInterrupt);
    EXPECT_EQ(in(kIir), kRxReady);  // the higher priority hides the transmitter's
    EXPECT_EQ(in(kData), 'a');
    EXPECT_TRUE(interrupt());
    EXPECT_EQ(in(kIir), kTxEmpty);
    EXPECT_FALSE(interrupt());
}

TEST_F(SerialTest, LoopBackReturnsWhatIsWritten) {
    out(kMcr, kLoop);
    out(kData, 'q');
    EXPECT_EQ(host_.output, "");
    EXPECT_EQ(in(kLsr) & 0x61, 0x61U);
    EXPECT_EQ(in(kData), 'q');
}

TEST_F(SerialTest, LoopBackWiresModemControlToModemStatus) {
    for (std::uint8_t outputs = 0; outputs < 16; ++outputs) {
        out(kMcr, kLoop | outputs);
        const std::uint64_t cts = outputs >> 1 & 1;  // RTS
        const std::uint64_t dsr = outputs & 1;       // DTR
        const std::uint64_t ri = outputs >> 2 & 1;   // OUT1
        const std::uint64_t dcd = outputs >> 3 & 1;  // OUT2
        EXPECT_EQ(in(kMsr) & 0xF0, cts << 4 | dsr << 5 | ri << 6 | dcd << 7) << int{outputs};
    }
    out(kMcr, 0);
    EXPECT_EQ(in(kMsr), 0xB0U);
}

TEST_F(SerialTest, LoopBackOverrunIsALineStatusInterruptUntilRead) {
    out(kMcr, kLoop);
    for (int i = 0; i < 16; ++i) {
        out(kData, static_cast<std::uint8_t>(i));
    }
    EXPECT_EQ(in(kLsr) & 0x02, 0x00U);
    out(kData, 0xEE);
    out(kIer, kLineInterrupt | kRxInterrupt);
    EXPECT_EQ(in(kIir), kLineStatus);
    EXPECT_EQ(in(kLsr) & 0x02, 0x02U);
    EXPECT_EQ(in(kLsr) & 0x02, 0x00U);
    EXPECT_EQ(in(kIir), kRxReady);
    for (std::uint64_t i = 0; i < 16; ++i) {
        EXPECT_EQ(in(kData), i);
    }
}

TEST_F(SerialTest, FullOutputHoldsTheTransmitterUntilThereIsRoom) {
    out(kMcr, kIrqToPc);
    out(kIer, kTxInterrupt);
    (void)in(kIir);
    host_.full = true;
    out(kData, 'a');
    EXPECT_EQ(in(kLsr) & 0x60, 0x00U);
    EXPECT_FALSE(interrupt());
    serial_->output_ready();  // not yet, after all
    EXPECT_EQ(in(kLsr) & 0x60, 0x00U);
    host_.full = false;
    serial_->output_ready();
    EXPECT_EQ(host_.output, "a");
    EXPECT_EQ(in(kLsr) & 0x60, 0x60U);
    EXPECT_TRUE(interrupt());
    EXPECT_EQ(in(kIir), kTxEmpty);
    serial_->output_ready();  // nothing waits: nothing happens
    EXPECT_EQ(host_.output, "a");
    EXPECT_FALSE(interrupt());
}

TEST_F(SerialTest, EnablingTheTransmitInterruptWhileTheTransmitterIsFullRaisesNone) {
    out(kMcr, kIrqToPc);
    host_.full = true;
    out(kData, 'a');
    out(kIer, kTxInterrupt);
    EXPECT_FALSE(interrupt());
    host_.full = false;
    serial_->output_ready();
    EXPECT_TRUE(interrupt());
}

TEST_F(SerialTest, AByteWrittenOverAWaitingOneReplacesIt) {
    host_.full = true;
    out(kData, 'a');
    host_.full = false;
    out(kData, 'b');  // without a look at LSR, and without overtaking
    EXPECT_EQ(host_.output, "");
    serial_->output_ready();
    EXPECT_EQ(host_.output, "b");
}

TEST_F(SerialTest, WideAccessIsRegistersSideBySide) {
    test::write_device(*serial_, kScratch - 3, 0x11223300, 4);
    EXPECT_EQ(in(kScratch), 0x11U);
    EXPECT_EQ(test::read_device(*serial_, kLcr, 2), in(kLcr) | in(kMcr) << 8);
}

// Serial byte or interrupt in flight at pause, and the console hangs after the restore.
TEST_F(SerialTest, ATransmitInterruptInFlightSurvives) {
    out(kMcr, kIrqToPc);
    out(kIer, kTxInterrupt);
    save_and_restore();
    EXPECT_EQ(in(kIir), kTxEmpty);
    out(kData, 'x');
    EXPECT_TRUE(interrupt());
    EXPECT_EQ(host_.output, "x");
}

TEST_F(SerialTest, AnAcknowledgedTransmitInterruptDoesNotComeBack) {
    out(kMcr, kIrqToPc);
    out(kIer, kTxInterrupt);
    EXPECT_EQ(in(kIir), kTxEmpty);
    save_and_restore();
    EXPECT_EQ(in(kIir), kNone);
    EXPECT_FALSE(interrupt());
}

TEST_F(SerialTest, AByteThatWaitsForTheOutputIsSentByTheRestoredMachine) {
    out(kMcr, kIrqToPc);
    out(kIer, kTxInterrupt);
    host_.full = true;
    out(kData, 'w');
    host_.full = false;
    save_and_restore();
    EXPECT_EQ(host_.output, "w");
    EXPECT_TRUE(interrupt());
    EXPECT_EQ(in(kIir), kTxEmpty);
}

TEST_F(SerialTest, AByteThatStillDoesNotFitWaitsOn) {
    host_.full = true;
    out(kData, 'w');
    save_and_restore();
    EXPECT_EQ(in(kLsr) & 0x60, 0x00U);
    host_.full = false;
    serial_->output_ready();
    EXPECT_EQ(host_.output, "w");
}

TEST_F(SerialTest, InputThatTheGuestHasNotReadSurvivesInOrder) {
    receive("0123456789abcdef");
    EXPECT_EQ(in(kData), '0');
    save_and_restore();
    for (const char letter : std::string_view("123456789abcdef")) {
        EXPECT_EQ(in(kData), static_cast<std::uint8_t>(letter));
    }
    EXPECT_EQ(in(kLsr) & 0x01, 0x00U);
}

TEST_F(SerialTest, AStateNo16550CanBeInIsRefused) {
    SerialStateV1 state;
    state.receive.resize(SerialStateV1::kFifoSize + 1);
    EXPECT_TRUE(test::fails(SerialStateV1::decode(state.encode()), ErrorKind::invalid));
    state = {};
    state.interrupt_enable = 0x10;
    EXPECT_TRUE(test::fails(SerialStateV1::decode(state.encode()), ErrorKind::invalid));
}

}  // namespace
}  // namespace snapvm
