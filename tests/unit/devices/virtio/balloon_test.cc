// SPDX-License-Identifier: Apache-2.0
// The balloon with drivers that keep the rules, and with drivers that do not.
#include <algorithm>
#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include "tests/unit/devices/virtio/balloon_fixture.h"

namespace snapvm::virtio {
namespace {

TEST_F(VirtioBalloon, InflatedPagesAreGivenBackAtOnce) {
    start();
    for (std::uint64_t page = kPage; page < kPage + 4; ++page) {
        touch(page);
    }
    const auto vmgenid = static_cast<std::uint32_t>(platform::kVmGenIdBase.value / kPageSize);
    ASSERT_TRUE(ok(host_.memory.store<std::uint64_t>(platform::kVmGenIdBase, 9)));
    // In any order, twice, and some that are not the guest's to give.
    send_numbers(kInflate, {kPage + 2, kPage, kPage + 1, kPage, 256, 0x00FFFFFF, 0xFFFFFFFF, vmgenid});
    EXPECT_EQ(value(kPage), 0U);
    EXPECT_EQ(value(kPage + 2), 0U);
    EXPECT_EQ(value(kPage + 3), kPage + 3);
    EXPECT_EQ(type(kPage + 1), PageType::balloon);
    EXPECT_EQ(type(kPage + 3), PageType::normal);
    EXPECT_EQ(*host_.memory.load<std::uint64_t>(platform::kVmGenIdBase), 9U);
    EXPECT_FALSE(host_.memory.blocks()[1].types().touched());
    EXPECT_TRUE(queues_[kInflate].take().has_value());
    EXPECT_EQ(driver_->acknowledge(), 1U);
    EXPECT_FALSE(driver_->needs_reset());

    send_numbers(kDeflate, {kPage + 1, kPage + 9, 0xFFFFFFFF});
    EXPECT_EQ(type(kPage + 1), PageType::normal);
    EXPECT_EQ(type(kPage), PageType::balloon);
    EXPECT_TRUE(queues_[kDeflate].take().has_value());
}

TEST_F(VirtioBalloon, OddBuffersDoNoHarm) {
    start();
    touch(kPage);
    ASSERT_TRUE(ok(host_.memory.store<std::uint32_t>(kData, kPage)));
    send(kInflate, {{kData, 7, false}});  // one number and a half
    EXPECT_EQ(type(kPage), PageType::balloon);
    send(kInflate, {{kData, 3, false}});
    send(kInflate, {{kData, 64, true}});  // nothing to read
    send(kReports, {{kData + 8, 4096, true}, {kData + 1, 1, true}});  // no whole page
    EXPECT_EQ(type(kData.value / kPageSize), PageType::normal);
    EXPECT_FALSE(driver_->needs_reset());
    send(kInflate, {{Gpa{~0ULL - 100}, 64, false}});
    EXPECT_TRUE(driver_->needs_reset());
}

TEST_F(VirtioBalloon, ReportedPagesAreGivenBackAndMayBeUsedAgain) {
    start();
    touch(kPage);
    touch(kPage + 3);
    send(kReports, {{Gpa{kPage * kPageSize}, 3 * kPageSize, true}, {Gpa{(kPage + 3) * kPageSize + 4}, 4096, true}});
    EXPECT_EQ(type(kPage), PageType::free);
    EXPECT_EQ(type(kPage + 2), PageType::free);
    EXPECT_EQ(value(kPage), 0U);
    EXPECT_EQ(value(kPage + 3), kPage + 3) << "not all of it was reported";
    EXPECT_EQ(attached_.device->counters().find("discarded_pages"), 3U);
    EXPECT_EQ(queues_[kReports].take()->written, 0U);
    touch(kPage);
    EXPECT_EQ(value(kPage), kPage);
}

// 5.5.6.7.2: with a poison that is not zero the contents must stay.
TEST_F(VirtioBalloon, PoisonedPagesStay) {
    start(kAll);
    const std::uint32_t poison = 0xAAAAAAAA;
    attached_.device->write(0x10C, std::as_bytes(std::span(&poison, 1)));
    EXPECT_EQ(driver_->config<std::uint32_t>(12), poison);
    touch(kPage);
    send(kReports, {{Gpa{kPage * kPageSize}, kPageSize, true}});
    EXPECT_EQ(value(kPage), kPage);
    EXPECT_EQ(type(kPage), PageType::normal);
    EXPECT_TRUE(queues_[kReports].take().has_value());
}

TEST_F(VirtioBalloon, TheTargetIsToldAndTheActualSizeRead) {
    start();
    mmio_->locked([&] { balloon_->set_target(64 << 20); });
    EXPECT_EQ(driver_->acknowledge(), 2U);
    EXPECT_EQ(driver_->config<std::uint32_t>(0), 16384U);
    const std::uint32_t actual = 0x01020304;
    attached_.device->write(0x104, std::as_bytes(std::span(&actual, 1)));
    EXPECT_EQ(balloon_->actual_bytes(), 0x01020304ULL * kPageSize);
    const std::uint64_t all_ones = ~0ULL;
    attached_.device->write(0x100, std::as_bytes(std::span(&all_ones, 1)));
    EXPECT_EQ(driver_->config<std::uint32_t>(0), 16384U) << "the host's alone";
    EXPECT_EQ(driver_->config<std::uint32_t>(4), ~0U);
    attached_.device->write(0x10E, std::as_bytes(std::span(&all_ones, 1)));
    EXPECT_EQ(driver_->config<std::uint32_t>(12), 0xFFFF0000U);
    EXPECT_EQ(driver_->config<std::uint64_t>(16), 0U);
}

TEST_F(VirtioBalloon, StatisticsAreHeldUntilTheyAreAskedFor) {
    EXPECT_FALSE(balloon_->request_statistics()) << "no driver";
    start();
    EXPECT_FALSE(balloon_->request_statistics()) << "nothing to ask with";
    send_statistics(BalloonStatistics::free_memory, 1234);
    EXPECT_FALSE(queues_[kStatistics].take().has_value());
    EXPECT_EQ(balloon_->statistics().values[BalloonStatistics::free_memory], 1234U);
    EXPECT_FALSE(balloon_->statistics().values[BalloonStatistics::swap_in].has_value());
    // A machine restored meanwhile asks with the same buffer.
    const StateRecord record = attached_.device->save();
    build(&record);
    ASSERT_TRUE(ok(attached_.device->restored()));
    run();
    EXPECT_TRUE(mmio_->locked([&] { return balloon_->request_statistics(); }));
    EXPECT_TRUE(queues_[kStatistics].take().has_value());
    EXPECT_FALSE(mmio_->locked([&] { return balloon_->request_statistics(); })) << "it has not answered yet";
    send_statistics(BalloonStatistics::swap_in, 5);
    EXPECT_EQ(balloon_->statistics().updates, 1U);
    EXPECT_EQ(balloon_->statistics().values[BalloonStatistics::swap_in], 5U);
    EXPECT_FALSE(balloon_->statistics().values[BalloonStatistics::free_memory].has_value());
    send_statistics(BalloonStatistics::swap_in, 6);  // one too many: the older one comes back
    EXPECT_TRUE(queues_[kStatistics].take().has_value());
    EXPECT_FALSE(queues_[kStatistics].take().has_value());
    driver_->write(0x70, 0);
    EXPECT_FALSE(mmio_->locked([&] { return balloon_->request_statistics(); })) << "the driver is gone";
}

TEST_F(VirtioBalloon, APolledDriverIsAskedAgainAndAgain) {
    start();
    mmio_->locked([&] { balloon_->set_polling(1); });
    const StateRecord record = attached_.device->save();
    // Asked, once in each interval that it has answered in.
    const auto wait_for_question = [&] {
        for (int i = 0; i < 6000; ++i) {
            run();
            if (queues_[kStatistics].take()) {
                return true;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        return false;
    };
    for (std::uint64_t answer = 1; answer <= 2; ++answer) {
        send_statistics(BalloonStatistics::oom_kill, answer);
        EXPECT_TRUE(wait_for_question());
        EXPECT_EQ(balloon_->statistics().values[BalloonStatistics::oom_kill], answer);
    }
    driver_->write(0x70, 0);
    EXPECT_EQ(balloon_->polling_seconds(), 1) << "the host's wish, not the driver's";
    // And by the machine that is restored.
    build(&record);
    EXPECT_EQ(balloon_->polling_seconds(), 1);
    ASSERT_TRUE(ok(attached_.device->restored()));
    start();
    send_statistics(BalloonStatistics::oom_kill, 3);
    EXPECT_TRUE(wait_for_question());
    // Polling ends when the host sets 0.
    mmio_->locked([&] { balloon_->set_polling(0); });
    send_statistics(BalloonStatistics::oom_kill, 4);
    std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    run();
    EXPECT_FALSE(queues_[kStatistics].take().has_value());
}

TEST_F(VirtioBalloon, NothingThatWasAskedForStaysWhenAStateIsAdopted) {
    start();
    send_statistics(BalloonStatistics::free_memory, 1234);
    const StateRecord quiet = attached_.device->save();
    mmio_->locked([&] {
        balloon_->set_target(2 << 20);
        balloon_->set_polling(1);
        EXPECT_TRUE(balloon_->start_hinting([](std::size_t, std::uint64_t, std::uint64_t) {}));
    });
    const StateRecord polled = attached_.device->save();
    mmio_->locked([&] { balloon_->release_to(4 << 20); });
    ASSERT_TRUE(ok(test::adopt_record(*attached_.device, quiet)));
    EXPECT_EQ(driver_->config<std::uint32_t>(0), 0U) << "the target, and the size to release to";
    EXPECT_FALSE(balloon_->active());
    EXPECT_TRUE(balloon_->hinting_done());
    EXPECT_EQ(balloon_->statistics().updates, 0U);
    ASSERT_TRUE(ok(attached_.device->restored()));
    std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    run();
    EXPECT_FALSE(queues_[kStatistics].take().has_value()) << "it is polled no more";
    // The other state has the driver asked every second.
    ASSERT_TRUE(ok(test::adopt_record(*attached_.device, polled)));
    EXPECT_EQ(driver_->config<std::uint32_t>(0), (2U << 20) / kPageSize);
    ASSERT_TRUE(ok(attached_.device->restored()));
    bool asked = false;
    for (int i = 0; i < 6000 && !asked; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        run();
        asked = queues_[kStatistics].take().has_value();
    }
    EXPECT_TRUE(asked);
}

TEST_F(VirtioBalloon, ARequestThatWaitsIsServedOnceTheMachineRunsFromAnAdoptedState) {
    start();
    touch(kPage);
    {
        const DiscardGate::Hold window(host_.memory.blocks()[0].discards());
        send_numbers(kInflate, {kPage});
        ASSERT_TRUE(ok(test::adopt_record(*attached_.device, attached_.device->save())));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    run();
    EXPECT_EQ(value(kPage), kPage) << "the timer that was to look again is of the state before";
    ASSERT_TRUE(ok(attached_.device->restored()));
    run();
    EXPECT_EQ(type(kPage), PageType::balloon);
}

// Trap: a free-page hint treated as a discard.
TEST_F(VirtioBalloon, HintsDiscardNothing) {
    start();
    std::vector<std::uint64_t> hinted;
    touch(kPage);
    const auto say = [&](std::uint32_t id) {
        ASSERT_TRUE(ok(host_.memory.store(kData, id)));
        send(kHints, {{kData, 4, false}});
    };
    const auto hint = [&](std::uint64_t page) { send(kHints, {{Gpa{page * kPageSize}, 2 * kPageSize, true}}); };
    hint(kPage);  // no request was made
    ASSERT_TRUE(mmio_->locked([&] {
        return balloon_->start_hinting([&](std::size_t block, std::uint64_t first, std::uint64_t count) {
            EXPECT_EQ(block, 0U);
            for (std::uint64_t page = first; page < first + count; ++page) {
                hinted.push_back(page);
            }
        });
    }));
    EXPECT_EQ(driver_->acknowledge() & 2, 2U);
    const auto id = driver_->config<std::uint32_t>(8);
    EXPECT_GT(id, 1U);
    say(id + 1);  // an answer to something else
    hint(kPage);
    EXPECT_TRUE(hinted.empty());
    say(id);
    hint(kPage);
    EXPECT_EQ(hinted, (std::vector<std::uint64_t>{kPage, kPage + 1}));
    EXPECT_EQ(value(kPage), kPage);
    EXPECT_EQ(type(kPage), PageType::normal);
    EXPECT_FALSE(balloon_->hinting_done());
    // Restored in the middle of it: the driver is told that it may use its pages again.
    const StateRecord record = attached_.device->save();
    say(0);
    EXPECT_TRUE(balloon_->hinting_done());
    mmio_->locked([&] { balloon_->finish_hinting(); });
    EXPECT_EQ(driver_->config<std::uint32_t>(8), 1U);
    build(&record);
    EXPECT_EQ(driver_->config<std::uint32_t>(8), id);
    ASSERT_TRUE(ok(attached_.device->restored()));
    EXPECT_EQ(driver_->config<std::uint32_t>(8), 1U);
}

// Linux ignores a request whose number is that of the last one it has answered, and a restored
// guest remembers that number.
TEST_F(VirtioBalloon, NoRequestForHintsHasANumberThatTheDriverHasSeen) {
    start();
    std::vector<std::uint32_t> seen;
    const auto ask = [&] {
        ASSERT_TRUE(
            mmio_->locked([&] { return balloon_->start_hinting([](std::size_t, std::uint64_t, std::uint64_t) {}); }));
        seen.push_back(driver_->config<std::uint32_t>(8));
        mmio_->locked([&] { balloon_->finish_hinting(); });
    };
    const auto restore = [&](const StateRecord& record) {
        build(&record);
        ASSERT_TRUE(ok(attached_.device->restored()));
        run();
    };
    ask();
    restore(attached_.device->save());
    ask();
    ask();
    restore(attached_.device->save());
    restore(attached_.device->save());
    ask();
    start();  // the driver starts over
    ask();
    EXPECT_TRUE(std::ranges::is_sorted(seen, std::less_equal<>{})) << "none comes twice";
    EXPECT_GT(seen.front(), 1U) << "the others are no requests";
}

// Trap: the balloon changes during a write-protect window. Inflation must wait, and deflation must
// not.
TEST_F(VirtioBalloon, GivingUpWaitsWhileItIsHeld) {
    start();
    touch(kPage);
    {
        const DiscardGate::Hold window(host_.memory.blocks()[0].discards());
        send_numbers(kInflate, {kPage});
        EXPECT_EQ(value(kPage), kPage);
        EXPECT_FALSE(queues_[kInflate].take().has_value());
        send_numbers(kDeflate, {kPage + 1});
        EXPECT_TRUE(queues_[kDeflate].take().has_value()) << "taking back needs not wait";
        ASSERT_TRUE(ok(host_.memory.store<std::uint32_t>(kData, kPage)));
    }
    for (int i = 0; i < 1000 && value(kPage) != 0; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        run();
    }
    EXPECT_EQ(type(kPage), PageType::balloon);
    EXPECT_TRUE(queues_[kInflate].take().has_value());
}

// A chain may name 65,536 pages; a queue full of such would hold up the other devices, and a pause.
TEST_F(VirtioBalloon, OthersHaveTheirTurnBetweenRequests) {
    start();
    for (const std::uint32_t queue : {kInflate, kReports}) {
        for (int i = 0; i < 8; ++i) {
            queues_[queue].add({{Gpa{kPage * kPageSize}, kPageSize, queue == kReports}});
        }
        driver_->notify(queue);
        ASSERT_TRUE(host_.loop->run_pending());
        EXPECT_EQ(queues_[queue].used_index(), 4U);
        run();
        EXPECT_EQ(queues_[queue].used_index(), 8U);
    }
}

TEST_F(VirtioBalloon, ADriverThatStartsOverKeepsTheHostsWish) {
    mmio_->locked([&] { balloon_->set_target(8 << 20); });
    start();
    send_statistics(0, 1);
    driver_->write(0x70, 0);
    EXPECT_EQ(driver_->config<std::uint32_t>(0), 2048U);
    start();
    EXPECT_EQ(driver_->config<std::uint32_t>(0), 2048U);
    EXPECT_FALSE(balloon_->request_statistics());
}

TEST_F(VirtioBalloon, AGuestThatGivesUpItsOwnRingsHarmsItselfAlone) {
    start();
    std::vector<std::uint32_t> numbers(256);
    for (std::uint32_t i = 0; i < numbers.size(); ++i) {
        numbers[i] = 255 - i;
    }
    send_numbers(kInflate, numbers);
    for (std::uint32_t queue = 0; queue < 5; ++queue) {
        notify(queue);
    }
    std::mt19937 random(3);
    for (int round = 0; round < 300; ++round) {
        start();
        for (Gpa at{0x1000}; at < queues_.back().end(); at = at + 4) {
            queues_[0].store(at, static_cast<std::uint32_t>(random() % 3 == 0 ? random() : random() % 16));
        }
        for (std::uint32_t queue = 0; queue < 5; ++queue) {
            notify(queue);
        }
    }
}

}  // namespace
}  // namespace snapvm::virtio
