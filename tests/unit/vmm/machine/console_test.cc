// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/console.h"

#include <gtest/gtest.h>

#include <thread>

namespace snapvm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kCapacity = Console::kCapacity;

void write(Console& console, std::string_view text) {
    for (const char letter : text) {
        ASSERT_TRUE(console.put(static_cast<std::uint8_t>(letter)));
    }
}
std::size_t write_until_full(Console& console, std::size_t most) {
    std::size_t count = 0;
    while (count < most && console.put('x')) {
        ++count;
    }
    return count;
}
Console::Chunk read_now(const Console& console, std::uint64_t position) { return console.read(position, Clock::now()); }

TEST(Console, ReadersFollowItIndependently) {
    Console console;
    write(console, "hello ");
    const auto first = read_now(console, 0);
    EXPECT_EQ(first.bytes, "hello ");
    write(console, "world");
    EXPECT_EQ(read_now(console, first.next).bytes, "world");
    EXPECT_EQ(read_now(console, 0).bytes, "hello world");
    EXPECT_EQ(read_now(console, 11).bytes, "");
    EXPECT_EQ(read_now(console, 11).next, 11U);
    EXPECT_EQ(console.oldest(), 0U);
    EXPECT_EQ(console.end(), 11U);
}

TEST(Console, KeepsTheNewestRingful) {
    Console console;
    write(console, "lost");
    write(console, std::string(kCapacity - 3, 'a'));
    write(console, "end");
    EXPECT_EQ(console.oldest(), 4U);
    const auto chunk = read_now(console, 0);
    EXPECT_EQ(chunk.bytes, std::string(kCapacity - 3, 'a') + "end");
    EXPECT_EQ(chunk.next, kCapacity + 4);
    EXPECT_EQ(read_now(console, kCapacity + 1).bytes, "end");
}

TEST(Console, ReadAcrossTheSeamIsInOrder) {
    Console console;
    write(console, std::string(kCapacity - 2, 'a'));
    write(console, "1234");
    EXPECT_EQ(read_now(console, kCapacity - 2).bytes, "1234");
}

TEST(Console, ReadWaitsForOutput) {
    Console console;
    std::thread writer([&] { EXPECT_TRUE(console.put('!')); });
    EXPECT_EQ(console.read(0, Clock::time_point::max()).bytes, "!");
    writer.join();
}

TEST(Console, ReadEndsEmptyAtItsDeadline) {
    EXPECT_EQ(Console().read(0, Clock::now() + std::chrono::milliseconds(1)).bytes, "");
}

TEST(Console, ClosingWakesReadersAfterTheLastByte) {
    Console console;
    write(console, "bye");
    std::string got;
    std::thread reader([&] {
        std::uint64_t position = 0;
        while (true) {
            const auto chunk = console.read(position, Clock::time_point::max());
            if (chunk.bytes.empty()) {
                return;
            }
            got += chunk.bytes;
            position = chunk.next;
        }
    });
    EXPECT_FALSE(console.closed());
    console.close();
    reader.join();
    EXPECT_TRUE(console.closed());
    EXPECT_EQ(got, "bye");
}

TEST(Console, WithoutAHeldReaderNothingIsEverRefused) {
    Console console;
    EXPECT_EQ(write_until_full(console, 3 * kCapacity), 3 * kCapacity);
}

TEST(Console, HeldReaderMissesNothing) {
    Console console;
    write(console, "old");
    int calls = 0;
    console.hold_for_reader([&] { ++calls; });
    EXPECT_EQ(write_until_full(console, 2 * kCapacity), kCapacity - 3);
    EXPECT_EQ(calls, 0);
    const auto chunk = read_now(console, 0);
    EXPECT_EQ(chunk.bytes.size(), kCapacity);
    EXPECT_EQ(chunk.bytes.substr(0, 4), "oldx");
    console.consumed(10);
    EXPECT_EQ(calls, 1);
    console.consumed(20);  // no byte was refused since
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(write_until_full(console, 100), 20U);
    EXPECT_EQ(read_now(console, 20).bytes.size(), kCapacity);
}

TEST(Console, HoldAfterTheRingHasWrappedStartsAtTheOldestByte) {
    Console console;
    EXPECT_EQ(write_until_full(console, kCapacity + 5), kCapacity + 5);
    int calls = 0;
    console.hold_for_reader([&] { ++calls; });
    EXPECT_FALSE(console.put('x'));
    console.consumed(console.oldest() + 1);
    EXPECT_EQ(calls, 1);
    EXPECT_TRUE(console.put('x'));
}

// The device takes its own lock and then the console's in `put`: called with the console's lock
// held, this would not return.
TEST(Console, RoomAgainMayPut) {
    Console console;
    bool taken = false;
    console.hold_for_reader([&] { taken = console.put('w'); });
    write_until_full(console, kCapacity + 1);
    console.consumed(1);
    EXPECT_TRUE(taken);
    EXPECT_FALSE(console.put('x'));
}

TEST(Console, ReleasingTheReaderLetsTheRefusedOnGo) {
    Console console;
    int calls = 0;
    console.hold_for_reader([&] { ++calls; });
    write_until_full(console, kCapacity + 1);
    console.release_reader();
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(write_until_full(console, kCapacity), kCapacity);
    console.consumed(5);
    console.release_reader();
    EXPECT_EQ(calls, 1);
}

TEST(Console, ReleasingAReaderThatHeldUpNobodyCallsNobody) {
    Console console;
    int calls = 0;
    console.hold_for_reader([&] { ++calls; });
    console.release_reader();
    EXPECT_EQ(calls, 0);
}

TEST(Console, AWriterAndAHeldReaderMeetWithoutLoss) {
    Console console;
    std::atomic<bool> room = true;
    console.hold_for_reader([&] {
        room = true;
        room.notify_one();
    });
    constexpr std::uint64_t kBytes = 3 * kCapacity;
    std::thread writer([&] {
        for (std::uint64_t i = 0; i < kBytes; ++i) {
            room = false;
            while (!console.put(static_cast<std::uint8_t>(i * 7 >> 5))) {
                room.wait(false);
                room = false;
            }
        }
        console.close();
    });
    std::uint64_t position = 0;
    while (true) {
        const auto chunk = console.read(position, Clock::time_point::max());
        if (chunk.bytes.empty()) {
            break;
        }
        for (const char byte : chunk.bytes) {
            ASSERT_EQ(static_cast<std::uint8_t>(byte), static_cast<std::uint8_t>(position * 7 >> 5)) << position;
            ++position;
        }
        console.consumed(position);
    }
    EXPECT_EQ(position, kBytes);
    writer.join();
}

}  // namespace
}  // namespace snapvm
