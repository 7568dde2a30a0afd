// SPDX-License-Identifier: Apache-2.0
#include "vmm/bus/bus.h"

#include <algorithm>
#include <limits>

#include "tests/support/result_matchers.h"
#include "vmm/bus/interrupt.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

// Answers with its own mark and remembers where it was asked.
class Marked final : public BusDevice {
public:
    explicit Marked(int mark) : mark_(mark) {}
    void read(std::uint64_t offset, std::span<std::byte> data) override {
        last_offset = offset;
        ++reads;
        std::ranges::fill(data, static_cast<std::byte>(mark_));
    }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        last_offset = offset;
        written.assign(data.begin(), data.end());
    }
    std::uint64_t last_offset = kMax;
    int reads = 0;
    std::vector<std::byte> written;

private:
    int mark_;
};

std::vector<std::byte> read(const Bus& bus, std::uint64_t address, std::size_t size) {
    std::vector<std::byte> data(size, std::byte{0x5A});
    bus.read(address, data);
    return data;
}
std::vector<std::byte> all(int mark, std::size_t size) {
    return std::vector<std::byte>(size, static_cast<std::byte>(mark));
}

class BusTest : public ::testing::Test {
protected:
    Bus bus_{kPortLimit};
    Marked a_{0xA0};
    Marked b_{0xB0};
};

TEST_F(BusTest, GivesTheDeviceTheOffsetInItsRange) {
    ASSERT_TRUE(ok(bus_.add(0x3F8, 8, a_, "a")));
    EXPECT_EQ(read(bus_, 0x3F8, 1), all(0xA0, 1));
    EXPECT_EQ(a_.last_offset, 0U);
    EXPECT_EQ(read(bus_, 0x3FF, 1), all(0xA0, 1));
    EXPECT_EQ(a_.last_offset, 7U);
    const auto data = all(0x42, 4);
    bus_.write(0x3FC, data);
    EXPECT_EQ(a_.last_offset, 4U);
    EXPECT_EQ(a_.written, data);
}

TEST_F(BusTest, ReadNobodyAnswersIsAllOnesInEverySize) {
    for (const std::size_t size : {1, 2, 4, 8}) {
        EXPECT_EQ(read(bus_, 0x80, size), all(0xFF, size));
    }
    ASSERT_TRUE(ok(bus_.add(0x100, 4, a_, "a")));
    EXPECT_EQ(read(bus_, 0xFF, 1), all(0xFF, 1));
    EXPECT_EQ(read(bus_, 0x104, 1), all(0xFF, 1));
    EXPECT_EQ(read(bus_, kMax, 8), all(0xFF, 8));
    bus_.write(0x104, all(1, 1));
    EXPECT_EQ(a_.reads, 0);
    EXPECT_TRUE(a_.written.empty());
}

TEST_F(BusTest, AccessAcrossARangesEndBelongsToNobody) {
    ASSERT_TRUE(ok(bus_.add(0x100, 4, a_, "a")));
    ASSERT_TRUE(ok(bus_.add(0x104, 4, b_, "b")));
    EXPECT_EQ(read(bus_, 0x102, 4), all(0xFF, 4));
    EXPECT_EQ(read(bus_, 0x106, 4), all(0xFF, 4));
    EXPECT_EQ(read(bus_, 0xFE, 4), all(0xFF, 4));
    bus_.write(0x103, all(1, 2));
    EXPECT_EQ(a_.reads + b_.reads, 0);
    EXPECT_TRUE(a_.written.empty());
}

TEST_F(BusTest, AdjacentRangesAreApart) {
    ASSERT_TRUE(ok(bus_.add(0x104, 4, b_, "b")));
    ASSERT_TRUE(ok(bus_.add(0x100, 4, a_, "a")));
    EXPECT_EQ(read(bus_, 0x103, 1), all(0xA0, 1));
    EXPECT_EQ(read(bus_, 0x104, 1), all(0xB0, 1));
    EXPECT_EQ(b_.last_offset, 0U);
}

TEST_F(BusTest, OverlapsAreRefusedFromEverySideAndNameTheOther) {
    ASSERT_TRUE(ok(bus_.add(0x100, 0x10, a_, "first")));
    for (const auto& [base, size] :
         {std::pair{0x100, 0x10}, {0x108, 1}, {0xFF, 2}, {0x10F, 2}, {0x80, 0x200}, {0x10F, 1}, {0x100, 1}}) {
        const auto result = bus_.add(static_cast<std::uint64_t>(base), static_cast<std::uint64_t>(size), b_, "second");
        EXPECT_TRUE(fails(result, ErrorKind::invalid, "second overlaps that of first")) << base << ' ' << size;
    }
    EXPECT_EQ(read(bus_, 0x108, 1), all(0xA0, 1));
}

TEST_F(BusTest, EdgesOfTheBus) {
    EXPECT_TRUE(ok(bus_.add(0, 1, a_, "lowest")));
    EXPECT_TRUE(ok(bus_.add(0xFFFF, 1, b_, "highest")));
    EXPECT_EQ(read(bus_, 0, 1), all(0xA0, 1));
    EXPECT_EQ(read(bus_, 0xFFFF, 1), all(0xB0, 1));
    EXPECT_EQ(read(bus_, 0xFFFF, 2), all(0xFF, 2));
    for (const auto& [base, size] :
         {std::pair{std::uint64_t{0x10000}, std::uint64_t{1}}, {0xFFFE, 3}, {5, 0}, {5, kMax}, {kMax, 1}}) {
        EXPECT_TRUE(fails(bus_.add(base, size, a_, "bad"), ErrorKind::invalid, "empty or beyond"))
            << base << ' ' << size;
    }
}

TEST(InterruptSink, PulseGoesUpThenDown) {
    struct Recorder final : InterruptSink {
        void set_level(std::uint32_t gsi, bool high) override { seen.emplace_back(gsi, high); }
        std::vector<std::pair<std::uint32_t, bool>> seen;
    } sink;
    sink.pulse(5);
    EXPECT_EQ(sink.seen, (std::vector<std::pair<std::uint32_t, bool>>{{5, true}, {5, false}}));
}

}  // namespace
}  // namespace snapvm
