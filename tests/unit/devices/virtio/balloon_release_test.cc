// SPDX-License-Identifier: Apache-2.0
// A guest's free memory is taken by its balloon for a while, with drivers that answer and with
// others.
#include "devices/virtio/balloon/release.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/unit/devices/virtio/balloon_fixture.h"

namespace snapvm::virtio {
namespace {

using namespace std::chrono_literals;
using test::fails;

constexpr std::uint64_t kDeflateOnOom = 1ULL << 2;
constexpr std::uint64_t kTellsStatistics = 1ULL << 1;
constexpr std::uint64_t kHinting = 1ULL << 3;
constexpr std::uint32_t kFirst = 0x40;  // pages of the guest's from here on
constexpr std::uint32_t kRam = 256;
constexpr std::uint64_t kReserve = (1ULL << 20) / 4;  // of a guest with 1 MiB
constexpr ReleaseLimits kPatient{.answer = 60s, .progress = 60s, .all = 60s};
constexpr ReleaseLimits kHasty{.answer = 50ms, .progress = 300ms, .all = 60s};

constexpr std::uint64_t bytes(std::uint64_t pages) { return pages * kPageSize; }

/// How a fake guest behaves.
struct Manner {
    std::uint64_t features = kAll & ~kPoison;
    std::vector<std::pair<std::uint16_t, std::uint64_t>> statistics = {};  ///< tag and value
    bool answers = true;
    std::uint32_t most = kRam;  ///< pages that it gives
    std::uint32_t hints = 0;    ///< pages that it names as free
    std::optional<std::uint32_t> says = {};  ///< number of pages that the driver reports, instead of the true one
};

std::pair<std::uint16_t, std::uint64_t> free_memory(std::uint64_t value) {
    return {BalloonStatistics::free_memory, value};
}
std::pair<std::uint16_t, std::uint64_t> available(std::uint64_t value) {
    return {BalloonStatistics::available_memory, value};
}

class BalloonRelease : public VirtioBalloon {
protected:
    ~BalloonRelease() override { stop(); }

    /// Starts the guest on a thread.
    void drive(const Manner& manner) {
        manner_ = manner;
        actual_ = 0;
        hinted_ = 0;
        start(manner.features);
        if ((manner.features & kTellsStatistics) != 0) {
            send_statistics(BalloonStatistics::free_memory, 1ULL << 30);  // of earlier, and not so any more
        }
        over_ = false;
        thread_ = std::thread([this] {
            while (!over_) {
                run();
                look();
                std::this_thread::yield();
            }
        });
    }
    void stop() {
        over_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
    }
    Result<std::uint64_t> release(std::uint64_t max_bytes = ~0ULL, const ReleaseLimits& limits = kPatient) {
        const BalloonAccess access = [this](const std::function<void(Balloon&)>& what) {
            mmio_->locked([&] { what(*balloon_); });
        };
        return release_free(access, max_bytes, check_cancelled_, limits);
    }
    void give_back() {
        mmio_->locked([this] { balloon_->give_back(); });
    }
    std::uint32_t wanted() { return driver_->config<std::uint32_t>(0); }
    std::uint32_t holds() { return driver_->config<std::uint32_t>(4); }
    void expect_holds(std::uint32_t pages) {
        for (const auto until = std::chrono::steady_clock::now() + 60s;
             holds() != pages && std::chrono::steady_clock::now() < until;) {
            std::this_thread::sleep_for(1ms);
        }
        EXPECT_EQ(holds(), pages);
    }
    std::function<Status()> check_cancelled_ = [] { return Status{}; };

private:
    // The rings are plain memory, and the test's thread pushes to one of them, so this holds the
    // device's lock.
    void offer(std::uint32_t queue, std::initializer_list<DriverQueue::Buffer> buffers) {
        mmio_->locked([&] { queues_[queue].add(buffers); });
        driver_->notify(queue);
    }
    std::optional<DriverQueue::Used> take(std::uint32_t queue) {
        return mmio_->locked([&] { return queues_[queue].take(); });
    }
    void look() {
        if (!manner_.answers) {
            return;
        }
        if (take(kStatistics)) {
            Encoder out;
            for (const auto& [tag, value] : manner_.statistics) {
                out.u16(tag);
                out.u64(value);
            }
            mmio_->locked([&] { EXPECT_TRUE(ok(host_.memory.write(kData, out.bytes()))); });
            offer(kStatistics, {{kData, static_cast<std::uint32_t>(out.bytes().size()), false}});
        }
        const auto hint = driver_->config<std::uint32_t>(8);
        if (hint > 1 && hint != hinted_) {
            hinted_ = hint;
            name_free_pages(hint);
        }
        const std::uint32_t now = actual_;
        const std::uint32_t goal = std::min(wanted(), manner_.most);
        if (now < goal) {
            change(kInflate, kFirst + now, std::min(goal - now, 32U));
            set_actual(now + std::min(goal - now, 32U));
        } else if (now > goal) {
            change(kDeflate, kFirst + goal, now - goal);
            set_actual(goal);
        }
    }
    void change(std::uint32_t queue, std::uint32_t first, std::uint32_t count) {
        std::vector<std::uint32_t> numbers;
        for (std::uint32_t i = 0; i < count; ++i) {
            numbers.push_back(first + i);
        }
        const Gpa at = kData + kPageSize;
        mmio_->locked([&] { EXPECT_TRUE(ok(host_.memory.write(at, std::as_bytes(std::span(numbers))))); });
        offer(queue, {{at, 4 * count, false}});
        run();
        EXPECT_TRUE(take(queue).has_value());
    }
    void set_actual(std::uint32_t pages) {
        actual_ = pages;
        const std::uint32_t said = manner_.says.value_or(pages);
        attached_.device->write(0x104, std::as_bytes(std::span(&said, 1)));
    }
    void name_free_pages(std::uint32_t id) {
        const Gpa at = kData + 2 * kPageSize;
        const auto say = [&](std::uint32_t word) {
            mmio_->locked([&] { EXPECT_TRUE(ok(host_.memory.store(at, word))); });
            offer(kHints, {{at, 4, false}});
            run();
            (void)take(kHints);
        };
        say(id);
        offer(kHints, {{Gpa{kFirst * kPageSize}, static_cast<std::uint32_t>(bytes(manner_.hints)), true}});
        run();
        (void)take(kHints);
        say(0);
    }

    Manner manner_;
    std::uint32_t actual_ = 0;  ///< by the guest's own count
    std::uint32_t hinted_ = 0;
    std::atomic<bool> over_ = false;
    std::thread thread_;
};

TEST_F(BalloonRelease, WhatIsFreeIsTakenAndGivenBack) {
    drive({.statistics = {free_memory(kReserve + bytes(100) + 17), available(kReserve * 9)}});
    mmio_->locked([this] { balloon_->set_target(bytes(10)); });
    expect_holds(10);
    auto released = release();
    ASSERT_TRUE(ok(released));
    EXPECT_EQ(*released, bytes(100));
    EXPECT_EQ(holds(), 110U);
    EXPECT_EQ(type(kFirst + 109), PageType::balloon);
    EXPECT_EQ(balloon_->target_bytes(), bytes(10)) << "the host's wish is what it was";
    // Restored: the driver is told that it may have them back.
    const StateRecord record = attached_.device->save();
    give_back();
    expect_holds(10);
    EXPECT_EQ(type(kFirst + 109), PageType::normal);
    stop();
    build(&record);
    EXPECT_EQ(wanted(), 10U);
    EXPECT_EQ(holds(), 110U);
    (void)driver_->acknowledge();
    const int edges = host_.edges;
    ASSERT_TRUE(ok(attached_.device->restored()));
    EXPECT_EQ(driver_->acknowledge(), 2U) << "a change of the configuration";
    EXPECT_EQ(host_.edges, edges + 1);
}

TEST_F(BalloonRelease, NoMoreThanAskedFor) {
    drive({.statistics = {free_memory(1ULL << 30)}});
    EXPECT_EQ(*release(bytes(33) + 5), bytes(33));
    EXPECT_EQ(holds(), 33U);
    give_back();
    expect_holds(0);
    EXPECT_EQ(*release(0), 0U);
}

// 5.5.6.3: available memory takes into account what the guest keeps for itself.
TEST_F(BalloonRelease, TheLesserOfFreeAndAvailable) {
    drive({.statistics = {available(kReserve + bytes(5)), free_memory(kReserve + bytes(100))}});
    EXPECT_EQ(*release(), bytes(5));
}

TEST_F(BalloonRelease, AGuestThatTakesNothingBackByItselfKeepsHalf) {
    drive({.features = kAll & ~kPoison & ~kDeflateOnOom, .statistics = {free_memory(bytes(200))}});
    EXPECT_EQ(*release(), bytes(100));
    stop();
    drive({.features = kAll & ~kPoison, .statistics = {free_memory(bytes(200))}});
    EXPECT_EQ(*release(), bytes(200) - kReserve);
}

TEST_F(BalloonRelease, AGuestWithNothingFreeGoesOnAtOnce) {
    for (const std::uint64_t free : {std::uint64_t{0}, kReserve, kReserve + kPageSize - 1}) {
        drive({.statistics = {free_memory(free)}});
        EXPECT_EQ(*release(), 0U);
        EXPECT_EQ(wanted(), 0U);
        stop();
    }
}

TEST_F(BalloonRelease, AGuestWithoutADriverGoesOnAtOnce) {
    EXPECT_EQ(*release(), 0U);
    ASSERT_TRUE(driver_->negotiate(kAll));  // it does not get any further
    EXPECT_EQ(*release(), 0U);
    EXPECT_EQ(driver_->config<std::uint32_t>(0), 0U);
}

TEST_F(BalloonRelease, AGuestThatTellsNothingGoesOnAtOnce) {
    drive({.features = kDeflateOnOom});
    EXPECT_EQ(*release(), 0U);
    stop();
    drive({.features = kDeflateOnOom | kTellsStatistics, .statistics = {{BalloonStatistics::swap_in, 1}}});
    EXPECT_EQ(*release(), 0U);
}

TEST_F(BalloonRelease, AGuestThatDoesNotAnswerIsNotWaitedForForLong) {
    drive({.statistics = {free_memory(1ULL << 30)}, .answers = false});
    EXPECT_EQ(*release(~0ULL, kHasty), 0U);
    EXPECT_EQ(wanted(), 0U);
    stop();
    drive({.features = kDeflateOnOom | kHinting, .answers = false});
    EXPECT_EQ(*release(~0ULL, kHasty), 0U);
    EXPECT_EQ(driver_->config<std::uint32_t>(8), 1U) << "it may use what it has named";
}

TEST_F(BalloonRelease, AGuestThatStopsHalfWayIsAskedForNoMore) {
    drive({.statistics = {free_memory(kReserve + bytes(100))}, .most = 50});
    const auto released = release(~0ULL, kHasty);
    ASSERT_TRUE(ok(released));
    EXPECT_LE(*released, bytes(50));
    EXPECT_EQ(wanted(), *released / kPageSize) << "it does not go on trying";
    give_back();
    expect_holds(0);
}

TEST_F(BalloonRelease, AGuestThatGivesNothingIsNotAskedForMore) {
    drive({.statistics = {free_memory(kReserve + bytes(100))}, .most = 0});
    EXPECT_EQ(*release(~0ULL, kHasty), 0U);
    EXPECT_EQ(wanted(), 0U);
}

TEST_F(BalloonRelease, AGuestWithoutStatisticsIsAskedForHints) {
    drive({.features = kDeflateOnOom | kHinting, .hints = 150});
    EXPECT_EQ(*release(), bytes(150) - kReserve);
    EXPECT_EQ(driver_->config<std::uint32_t>(8), 1U) << "it may use what it has named";
    EXPECT_EQ(holds(), 150 - kReserve / kPageSize);
}

TEST_F(BalloonRelease, CalledOffItGivesBack) {
    drive({.statistics = {free_memory(kReserve + bytes(100))}, .most = 50});
    check_cancelled_ = [this] { return holds() == 50 ? Status(fail(ErrorKind::cancelled, "called off")) : Status{}; };
    EXPECT_TRUE(fails(release(), ErrorKind::cancelled, "called off"));
    EXPECT_EQ(wanted(), 0U);
    expect_holds(0);
}

TEST_F(BalloonRelease, AGuestThatLiesHarmsItselfAlone) {
    for (const std::uint32_t says : {0U, 7U, kRam, 0xFFFFFFFFU}) {
        drive({.statistics = {free_memory(~0ULL), available(~0ULL)}, .says = says});
        const auto released = release(~0ULL, kHasty);
        ASSERT_TRUE(ok(released));
        EXPECT_LE(*released, bytes(kRam));
        EXPECT_LE(wanted(), kRam);
        give_back();
        EXPECT_EQ(wanted(), 0U);
        stop();
    }
}

// The host may change its target meanwhile, and the driver may start over.
TEST_F(BalloonRelease, TheLargerOfTheTwoIsAskedFor) {
    drive({.statistics = {free_memory(kReserve + bytes(20))}});
    EXPECT_EQ(*release(), bytes(20));
    mmio_->locked([this] { balloon_->set_target(bytes(30)); });
    expect_holds(30);
    give_back();
    EXPECT_EQ(wanted(), 30U);
    mmio_->locked([this] { balloon_->set_target(bytes(5)); });
    expect_holds(5);
    EXPECT_EQ(*release(), bytes(20));
    stop();
    start();
    EXPECT_EQ(wanted(), 5U);
}

}  // namespace
}  // namespace snapvm::virtio
