// SPDX-License-Identifier: Apache-2.0
// Split queues with drivers that keep the rules, and with drivers that do not.
#include "devices/virtio/queue/queue.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/result_matchers.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::virtio {
namespace {

using test::DriverQueue;
using test::fails;
using test::ok;

constexpr std::uint64_t kMemory = 1ULL << 20;
constexpr Gpa kData{0x40000};
constexpr Gpa kTable{0x80000};

class VirtioQueue : public ::testing::Test {
protected:
    VirtioQueue() { connect(8, false); }
    static GuestMemory make_memory() {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kMemory}, PagePolicy::small_pages));
        return *GuestMemory::of(std::move(blocks));
    }
    void connect(std::uint16_t size, bool event_index) {
        queue_ = Queue(memory_, 256);
        driver_.emplace(memory_, Gpa{0x1000}, size);
        queue_.set_size(size);
        queue_.set_places(driver_->descriptors(), driver_->available(), driver_->used());
        ASSERT_TRUE(ok(queue_.set_ready()));
        queue_.use_event_index(event_index);
    }
    Result<bool> pop() { return queue_.pop(chain_); }

    GuestMemory memory_ = make_memory();
    Queue queue_{memory_, 256};
    std::optional<DriverQueue> driver_;
    Chain chain_;
};

TEST_F(VirtioQueue, AChainComesOutAndGoesBack) {
    EXPECT_FALSE(*pop());
    const std::uint16_t head =
        driver_->add({{kData, 16, false}, {kData + 0x1000, 100, true}, {kData + 0x2000, 4096, true}});
    ASSERT_TRUE(*pop());
    EXPECT_EQ(chain_.head, head);
    ASSERT_EQ(chain_.readable.size(), 1U);
    ASSERT_EQ(chain_.writable.size(), 2U);
    EXPECT_EQ(chain_.readable_bytes, 16U);
    EXPECT_EQ(chain_.writable_bytes, 4196U);
    EXPECT_FALSE(*pop());
    queue_.push(head, 100);
    const auto used = driver_->take();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->head, head);
    EXPECT_EQ(used->written, 100U);
}

TEST_F(VirtioQueue, IndexesWrapAround) {
    for (unsigned round = 0; round < 70'000; ++round) {
        const std::uint16_t head = driver_->add({{kData, 16, false}, {kData, 16, true}});
        ASSERT_TRUE(*pop()) << round;
        queue_.push(head, round % 17);
        const auto used = driver_->take();
        ASSERT_TRUE(used && used->head == head && used->written == round % 17) << round;
    }
}

TEST_F(VirtioQueue, IndirectTablesAreFollowed) {
    const std::array<DriverQueue::Buffer, 3> buffers = {
        {{kData, 1, false}, {kData + 8, 2, false}, {kData + 16, 3, true}}};
    driver_->add_indirect(kTable, buffers);
    ASSERT_TRUE(*pop());
    EXPECT_EQ(chain_.readable_bytes, 3U);
    EXPECT_EQ(chain_.writable_bytes, 3U);
}

TEST_F(VirtioQueue, BytesGoAcrossSegments) {
    driver_->add({{kData, 3, false}, {kData + 0x1000, 5, false}, {kData + 0x2000, 2, true}, {kData + 0x3000, 4, true}});
    ASSERT_TRUE(ok(memory_.write(kData, std::as_bytes(std::span("abc", 3)))));
    ASSERT_TRUE(ok(memory_.write(kData + 0x1000, std::as_bytes(std::span("defgh", 5)))));
    ASSERT_TRUE(*pop());
    std::array<char, 16> text{};
    EXPECT_EQ(*read_chain(memory_, chain_, 2, std::as_writable_bytes(std::span(text).first(4))), 4U);
    EXPECT_EQ(std::string(text.data()), "cdef");
    EXPECT_EQ(*read_chain(memory_, chain_, 6, std::as_writable_bytes(std::span(text))), 2U) << "what there is, no more";
    EXPECT_EQ(*write_chain(memory_, chain_, 1, std::as_bytes(std::span("1234567", 7))), 5U) << "what fits, no more";
    EXPECT_EQ(*memory_.load<char>(kData + 0x2001), '1');
    EXPECT_EQ(*memory_.load<char>(kData + 0x3003), '5');
}

// What the device writes is marked, rings included. Otherwise a snapshot would lack pages that the
// VMM itself writes.
TEST_F(VirtioQueue, WhatTheDeviceWritesIsMarked) {
    std::vector<std::uint64_t> words(kMemory / kPageSize / 64);
    memory_.blocks()[0].marks().collect(words);
    std::ranges::fill(words, 0);
    const std::uint16_t head = driver_->add({{kData, 8192, true}});
    ASSERT_TRUE(*pop());
    const std::vector<std::byte> data(5000, std::byte{1});
    ASSERT_EQ(*write_chain(memory_, chain_, 0, data), 5000U);
    queue_.push(head, 5000);
    memory_.blocks()[0].marks().collect(words);
    const auto marked = [&](Gpa at) {
        return (words[at.value / kPageSize / 64] >> (at.value / kPageSize % 64) & 1) != 0;
    };
    EXPECT_TRUE(marked(kData));
    EXPECT_TRUE(marked(kData + kPageSize));
    EXPECT_TRUE(marked(driver_->used()));
    EXPECT_FALSE(marked(driver_->available()));
    EXPECT_FALSE(marked(kData + 2 * kPageSize));
}

TEST_F(VirtioQueue, InterruptsAsTheDriverWants) {
    const auto use_one = [&] {
        const std::uint16_t head = driver_->add({{kData, 8, true}});
        ASSERT_TRUE(*pop());
        queue_.push(head, 0);
    };
    EXPECT_FALSE(queue_.wants_interrupt()) << "nothing was used";
    use_one();
    EXPECT_TRUE(queue_.wants_interrupt());
    EXPECT_FALSE(queue_.wants_interrupt()) << "it knows";
    driver_->set_no_interrupt(true);
    use_one();
    EXPECT_FALSE(queue_.wants_interrupt());

    connect(8, true);
    driver_->set_used_event(2);  // after the third
    use_one();
    EXPECT_FALSE(queue_.wants_interrupt());
    use_one();
    use_one();
    EXPECT_TRUE(queue_.wants_interrupt());
    use_one();
    EXPECT_FALSE(queue_.wants_interrupt());
}

TEST_F(VirtioQueue, NotificationsAreSuppressedAndAskedForAgain) {
    queue_.suppress_notifications();
    EXPECT_EQ(driver_->used_flags(), 1U);
    EXPECT_FALSE(*queue_.resume_notifications());
    EXPECT_EQ(driver_->used_flags(), 0U);
    driver_->add({{kData, 8, true}});
    EXPECT_TRUE(*queue_.resume_notifications()) << "one has come, and nobody will tell";

    connect(8, true);
    driver_->add({{kData, 8, true}});
    ASSERT_TRUE(*pop());
    EXPECT_FALSE(*queue_.resume_notifications());
    EXPECT_EQ(driver_->available_event(), 1U);
}

// The device requests a notification for chains beyond those that it has seen.
TEST_F(VirtioQueue, NotificationsAreAskedForBeyondWhatIsKnown) {
    connect(8, true);
    driver_->add({{kData, 8, true}});
    driver_->add({{kData, 8, true}});
    EXPECT_FALSE(*queue_.resume_notifications(2));
    EXPECT_EQ(driver_->available_event(), 2U);
    EXPECT_TRUE(*queue_.resume_notifications(1)) << "a second has come since";
    connect(8, false);
    driver_->add({{kData, 8, true}});
    EXPECT_FALSE(*queue_.resume_notifications(1));
    EXPECT_EQ(driver_->used_flags(), 0U);
}

TEST_F(VirtioQueue, SeveralChainsGoBackAtOnce) {
    std::vector<Queue::Done> chains;
    for (std::uint32_t i = 0; i < 3; ++i) {
        const std::uint16_t head = driver_->add({{kData, 64, true}});
        ASSERT_TRUE(*pop());
        chains.push_back({head, 10 * i});
    }
    EXPECT_EQ(driver_->used_index(), 0U);
    queue_.push(chains);
    EXPECT_EQ(driver_->used_index(), 3U);
    for (const Queue::Done& chain : chains) {
        const auto used = driver_->take();
        ASSERT_TRUE(used.has_value());
        EXPECT_EQ(used->head, chain.head);
        EXPECT_EQ(used->written, chain.written);
    }
    EXPECT_TRUE(queue_.wants_interrupt());
}

TEST_F(VirtioQueue, BadSettingsMakeNoQueue) {
    const Gpa good = driver_->descriptors();
    const auto refuses = [&](std::uint16_t size, Gpa descriptors, Gpa available, Gpa used) {
        Queue queue(memory_, 256);
        queue.set_size(size);
        queue.set_places(descriptors, available, used);
        return fails(queue.set_ready(), ErrorKind::invalid) && !queue.ready();
    };
    for (const std::uint16_t size : {0, 3, 100, 512, 0xFFFF}) {
        EXPECT_TRUE(refuses(size, good, driver_->available(), driver_->used())) << size;
    }
    EXPECT_TRUE(refuses(8, good + 8, driver_->available(), driver_->used()));
    EXPECT_TRUE(refuses(8, good, driver_->available() + 1, driver_->used()));
    EXPECT_TRUE(refuses(8, good, driver_->available(), driver_->used() + 2));
    EXPECT_TRUE(refuses(8, Gpa{kMemory}, driver_->available(), driver_->used()));
    EXPECT_TRUE(refuses(8, Gpa{kMemory - 64}, driver_->available(), driver_->used()));
    EXPECT_TRUE(refuses(8, good, Gpa{~0ULL - 1}, driver_->used()));
    EXPECT_TRUE(refuses(8, good, driver_->available(), Gpa{kMemory - 4}));
}

// Trap: ring indexes and descriptors are controlled by the guest. Each bad one is refused, and no
// chain is followed for ever.
TEST_F(VirtioQueue, BrokenChainsAreRefused) {
    using D = DriverQueue;
    const std::pair<const char*, std::function<void(D&)>> rows[] = {
        {"head out of the table", [](D& d) { d.offer(8); }},
        {"next out of the table",
         [](D& d) {
             d.write_descriptor(0, kData, 8, D::kNext, 200);
             d.offer(0);
         }},
        {"a ring",
         [](D& d) {
             d.write_descriptor(0, kData, 8, D::kNext, 1);
             d.write_descriptor(1, kData, 8, D::kNext, 0);
             d.offer(0);
         }},
        {"outside of memory", [](D& d) { d.add({{Gpa{kMemory}, 1, true}}); }},
        {"across the end of memory", [](D& d) { d.add({{Gpa{kMemory - 4}, 8, false}}); }},
        {"wraps around", [](D& d) { d.add({{Gpa{~0ULL - 3}, 8, false}}); }},
        {"read after write", [](D& d) { d.add({{kData, 8, true}, {kData, 8, false}}); }},
        {"too large", [](D& d) { d.add({{kData, 0xFFFFFFFF, true}}); }},
        {"indirect with next",
         [](D& d) {
             d.write_descriptor(0, kTable, 16, D::kIndirect | D::kNext, 1);
             d.offer(0);
         }},
        {"indirect of no entry",
         [](D& d) {
             d.write_descriptor(0, kTable, 0, D::kIndirect, 0);
             d.offer(0);
         }},
        {"indirect of half an entry",
         [](D& d) {
             d.write_descriptor(0, kTable, 24, D::kIndirect, 0);
             d.offer(0);
         }},
        {"indirect longer than the queue",
         [](D& d) {
             d.write_descriptor(0, kTable, 16 * 9, D::kIndirect, 0);
             d.offer(0);
         }},
        {"indirect in indirect",
         [](D& d) {
             d.write_descriptor_at(kTable, kTable, 16, D::kIndirect, 0);
             d.write_descriptor(0, kTable, 16, D::kIndirect, 0);
             d.offer(0);
         }},
        {"indirect ring",
         [](D& d) {
             d.write_descriptor_at(kTable, kData, 8, D::kNext, 0);
             d.write_descriptor(0, kTable, 16, D::kIndirect, 0);
             d.offer(0);
         }},
        {"index too far ahead", [](D& d) { d.set_available_index(9); }},
    };
    for (const auto& [name, breaks] : rows) {
        connect(8, false);
        memory_ = make_memory();
        connect(8, false);
        breaks(*driver_);
        EXPECT_TRUE(fails(pop(), ErrorKind::invalid)) << name;
    }
}

TEST_F(VirtioQueue, NoiseDoesNoHarm) {
    std::mt19937 random(3);
    for (int round = 0; round < 3000; ++round) {
        connect(8, round % 2 == 0);
        for (Gpa at{0x1000}; at < driver_->end(); at = at + 4) {
            driver_->store(at, static_cast<std::uint32_t>(random() % 3 == 0 ? random() : random() % 16));
        }
        for (int i = 0; i < 10; ++i) {
            const auto popped = pop();
            if (!popped || !*popped) {
                break;
            }
            ASSERT_LE(chain_.readable.size() + chain_.writable.size(), 9U);
            queue_.push(chain_.head, 0);
            (void)queue_.wants_interrupt();
            (void)queue_.resume_notifications();
        }
    }
}

TEST_F(VirtioQueue, GoesOnFromASavedState) {
    const std::uint16_t first = driver_->add({{kData, 8, true}});
    driver_->add({{kData + 8, 8, true}});
    ASSERT_TRUE(*pop());
    queue_.push(first, 8);
    Encoder out;
    queue_.state().encode(out);
    Decoder in(out.bytes());
    const QueueStateV1 saved = QueueStateV1::decode(in);
    ASSERT_TRUE(ok(in.finish("queue")));
    EXPECT_TRUE(saved == queue_.state());
    auto again = Queue::restored(memory_, 256, saved);
    ASSERT_TRUE(ok(again));
    ASSERT_TRUE(*again->pop(chain_));
    EXPECT_EQ(chain_.writable[0].at.value, kData.value + 8);
    EXPECT_TRUE(again->wants_interrupt()) << "what was used before and not told";
    QueueStateV1 bad = saved;
    bad.used = Gpa{kMemory};
    EXPECT_TRUE(fails(Queue::restored(memory_, 256, bad), ErrorKind::invalid));
}

}  // namespace
}  // namespace snapvm::virtio
