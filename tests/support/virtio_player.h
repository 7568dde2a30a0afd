// SPDX-License-Identifier: Apache-2.0
// A driver that does to a virtio device what a fuzzer's input says. The input is a list of moves: a
// byte, a queue and two numbers each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "devices/virtio/mmio/mmio.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::test {

inline void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

/// One device on a host of its own. After each move the event loop runs at most 16 rounds. After
/// the last move a second device must build from what the first one saves, and save the same.
class VirtioPlayer {
public:
    static constexpr std::size_t kMostBytes = 4096;  ///< of an input; the rest is ignored
    static constexpr unsigned kCommonMoves = 6;
    static constexpr Gpa kData{0x20000};

    VirtioPlayer(RecordKind kind, std::size_t queues, std::uint64_t features, std::span<const std::byte> moves)
        : kind_(kind),
          queue_count_(queues),
          in_(moves.first(std::min(moves.size(), kMostBytes))),
          attached_(build(host_, nullptr)) {
        start(features);
    }
    virtual ~VirtioPlayer() = default;
    VirtioPlayer(const VirtioPlayer&) = delete;
    VirtioPlayer& operator=(const VirtioPlayer&) = delete;

    void run() {
        while (!in_.bad() && in_.left() > 0) {
            move(in_.u8());
            for (int i = 0; i < 16 && host_.loop->run_pending(); ++i) {
            }
        }
        const StateRecord record = attached_.device->save();
        FakeHost other;
        require(build(other, &record).device->save() == record);
    }

protected:
    /// Makes one of the device's own moves, which are numbered from kCommonMoves on. moves() is the
    /// number of all moves.
    virtual void act(unsigned move, std::uint32_t a, std::uint16_t b) = 0;
    [[nodiscard]] virtual unsigned moves() const = 0;

    [[nodiscard]] FakeHost& host() { return host_; }
    [[nodiscard]] virtio::Mmio& mmio() { return dynamic_cast<virtio::Mmio&>(*attached_.device); }
    template <class Device>
    [[nodiscard]] Device& device() {
        return dynamic_cast<Device&>(mmio().device());
    }

private:
    AttachedDevice build(FakeHost& host, const StateRecord* record) const {
        for (const DeviceFactory& factory : device_factories()) {
            if (factory.kind == kind_) {
                auto built = build_device(factory, host, all_devices(), record);
                require(built.has_value());
                return *std::move(built);
            }
        }
        std::abort();
    }
    void start(std::uint64_t features) {
        MmioDriver driver(*attached_.device);
        (void)driver.negotiate(features);
        queues_.clear();
        Gpa base{0x1000};
        for (std::uint32_t i = 0; i < queue_count_; ++i) {
            queues_.emplace_back(host_.memory, base, 8);
            driver.set_queue(i, queues_.back());
            base = queues_.back().end();
        }
        driver.start();
    }
    void move(std::uint8_t what) {
        MmioDriver driver(*attached_.device);
        DriverQueue& queue = queues_[in_.u8() % queues_.size()];
        const auto index = static_cast<std::uint32_t>(&queue - queues_.data());
        const std::uint32_t a = in_.u32();
        const std::uint16_t b = in_.u16();
        switch (const unsigned which = what % moves()) {
            case 0: queue.store(kData + b % 4096, a); break;
            case 1: queue.add({{kData + a % 4096, b, false}}); break;
            case 2: queue.add({{Gpa{std::uint64_t{a} << 4}, b, true}}); break;
            case 3: queue.store(Gpa{0x1000 + a % 0x10000}, b); break;
            case 4: driver.write(a % 0x120, b); break;
            case 5: start(a); break;
            default: act(which, a, b);
        }
        driver.notify(index);
    }

    RecordKind kind_;
    std::size_t queue_count_;
    Decoder in_;
    FakeHost host_;
    AttachedDevice attached_;
    std::vector<DriverQueue> queues_;
};

}  // namespace snapvm::test
