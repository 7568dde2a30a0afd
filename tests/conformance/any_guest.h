// SPDX-License-Identifier: Apache-2.0
// A guest that keeps any device busy, without knowing more of it than its kind.
#pragma once

#include <random>
#include <vector>

#include "devices/platform/ged/ged.h"
#include "devices/platform/serial/serial.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/mmio/mmio.h"
#include "tests/conformance/device_rig.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::test {

/// The guest's state, and its memory: what a rewind puts back beside the device. Two guests that
/// are equal do the same to equal devices.
class AnyGuest {
public:
    static constexpr Gpa kRings{0x1000};
    static constexpr Gpa kData{0x40000};
    static constexpr Gpa kEnd{0x80000};

    explicit AnyGuest(std::uint32_t seed) : random_(seed) {}

    /// Starts the driver of a virtio device with all its features and queues.
    void start(Rig& rig) {
        if (!is_virtio(rig.kind)) {
            return;
        }
        MmioDriver driver(rig.device());
        EXPECT_TRUE(driver.negotiate(~0ULL));
        queues_.clear();
        const std::vector<std::byte> zeros(kData - kRings);
        EXPECT_TRUE(rig.host->memory.write(kRings, zeros).has_value());
        Gpa base = kRings;
        for (std::uint32_t index = 0; queue_exists(driver, index); ++index) {
            queues_.push_back({DriverQueue(rig.host->memory, base, kQueueSize)});
            base = queues_.back().ring.end();
            driver.set_queue(index, queues_.back().ring);
        }
        driver.start();
        rig.run();
    }
    /// Gives the device work in `steps` steps. Returns what it has read of the device.
    std::vector<std::byte> work(Rig& rig, int steps) {
        std::vector<std::byte> seen;
        for (int step = 0; step < steps; ++step) {
            for (std::uint32_t index = 0; index < queues_.size(); ++index) {
                offer(rig, index);
                MmioDriver(rig.device()).notify(index);
            }
            outside(rig);
            rig.run();
            for (const BusRange& range : rig.attached.ranges) {
                touch(range, seen);
                rig.run();
            }
        }
        return seen;
    }
    /// Makes chains available and notifies, and does not let the device look at them.
    void leave_work(Rig& rig) {
        for (std::uint32_t index = 0; index < queues_.size(); ++index) {
            offer(rig, index);
            MmioDriver(rig.device()).notify(index);
        }
        outside(rig);
    }
    /// Returns the memory that guest and device share.
    [[nodiscard]] static std::vector<std::byte> memory(const Rig& rig, Gpa end = kEnd) {
        std::vector<std::byte> bytes(end - kRings);
        EXPECT_TRUE(rig.host->memory.read(kRings, bytes).has_value());
        return bytes;
    }
    /// Moves the guest, which had this memory, to another device.
    void move_to(Rig& rig, std::span<const std::byte> memory) {
        EXPECT_TRUE(rig.host->memory.write(kRings, memory).has_value());
        for (Queue& queue : queues_) {
            queue.ring = queue.ring.on(rig.host->memory);
        }
    }

private:
    static constexpr std::uint16_t kQueueSize = 8;  // the largest that each queue may have
    static constexpr std::uint16_t kMostChains = 2;  ///< that the device has at a time, of each queue
    struct Queue {
        DriverQueue ring;
        std::uint16_t offered = 0;
    };

    static bool queue_exists(MmioDriver& driver, std::uint32_t index) {
        driver.write(0x30, index);
        return driver.read(0x34) != 0;
    }
    // A chain has something to read and something to write, of the sizes of a disk's read.
    void offer(Rig& rig, std::uint32_t index) {
        Queue& queue = queues_[index];
        if (static_cast<std::uint16_t>(queue.offered - queue.ring.used_index()) >= kMostChains) {
            return;
        }
        const Gpa at = kData + index * 0x4000 + queue.offered++ % kMostChains * std::uint64_t{0x1000};
        const bool disk = rig.kind == RecordKind::virtio_blk;
        for (std::uint64_t word = 0; word < 16; ++word) {
            queue.ring.store(at + 4 * word, disk ? (word == 2 ? random_() % 2000 : 0U) : random_() | 0x80000000U);
        }
        queue.ring.add({{at, disk ? 16U : 64U, false}, {at + 512, 512, true}, {at + 1024, 1, true}});
    }
    // What comes from the host's side.
    void outside(Rig& rig) {
        const std::array<std::uint8_t, 3> keys = {'a', 'b', static_cast<std::uint8_t>(random_())};
        const auto behind = [&]<class T>(T* /*type*/, auto what) {
            auto& transport = dynamic_cast<virtio::Mmio&>(rig.device());
            transport.locked([&] { what(dynamic_cast<T&>(transport.device())); });
        };
        switch (rig.kind) {
            case RecordKind::serial: (void)dynamic_cast<Serial&>(rig.device()).receive(keys); break;
            case RecordKind::ged: (void)dynamic_cast<Ged&>(rig.device()).press_power_button(); break;
            case RecordKind::virtio_net: rig.tap->put(Frame(Tap::kHeader + 100 + random_() % 3 * 600)); break;
            case RecordKind::virtio_console:
                behind(static_cast<virtio::Console*>(nullptr), [&](auto& console) { (void)console.receive(keys); });
                break;
            case RecordKind::virtio_balloon:
                behind(static_cast<virtio::Balloon*>(nullptr), [&](auto& balloon) {
                    balloon.set_target(random_() % 8 * kPageSize);
                    (void)balloon.request_statistics();
                });
                break;
            default: break;
        }
    }
    // Accesses that stop no driver: those of virtio's configuration space and interrupt registers,
    // and any of other devices.
    void touch(const BusRange& range, std::vector<std::byte>& seen) {
        for (int i = 0; i < 8; ++i) {
            const std::uint64_t offset = queues_.empty() ? random_() % range.size : 0x100 + random_() % 0x20;
            std::array<std::byte, 1> data = {static_cast<std::byte>(random_())};
            if (random_() % 2 == 0) {
                range.device->write(offset, data);
            } else {
                range.device->read(offset, data);
                seen.push_back(data[0]);
            }
        }
        if (!queues_.empty()) {
            const std::uint32_t causes = MmioDriver(*range.device).acknowledge();
            seen.push_back(static_cast<std::byte>(causes));
        }
    }

    std::mt19937 random_;
    std::vector<Queue> queues_;
};

}  // namespace snapvm::test
