// SPDX-License-Identifier: Apache-2.0
// A network device with a driver, on a FakeTap by default. For tests and fuzzers.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <optional>
#include <vector>

#include "devices/virtio/mmio/mmio.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/net/numbers.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/fake_tap.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::test {

/// Returns a frame of `size` bytes after a header, which is zero except for flags and segment type.
/// The bytes count up from `first`.
inline Frame frame_of(std::size_t size, std::uint8_t first = 1, std::uint8_t flags = 0, std::uint8_t segments = 0) {
    Frame frame(Tap::kHeader + size);
    for (std::size_t i = 0; i < size; ++i) {
        frame[Tap::kHeader + i] = static_cast<std::byte>(first + i);
    }
    frame[0] = std::byte{flags};
    frame[1] = std::byte{segments};
    return frame;
}

/// A network device with its driver. Queues and buffers are in the host's 1 MiB of memory. The
/// device works only in run().
class NetRig {
public:
    static constexpr std::uint64_t kEventIndex = 1ULL << 29;
    static constexpr std::uint64_t kAllFeatures = ~0ULL;
    static constexpr Gpa kBuffers{0x40000};  ///< 512 KiB
    static constexpr Gpa kSent{0xC0000};
    static constexpr Gpa kCommand{0xFE000};
    static constexpr Gpa kAnswer{0xFF000};

    explicit NetRig(std::uint64_t features = kAllFeatures & ~kEventIndex, std::uint16_t rx_size = 256,
                    const std::string& interface = "tap0", OpenTap open = test::FakeTap::open)
        : rx(fake.memory, Gpa{0x1000}, rx_size) {
        fake.open_tap = open;
        config.nets = {{.id = "eth0", .tap = interface, .mac = {2, 0, 0, 0, 0, 7}}};
        build(nullptr);
        connect(features);
    }
    void connect(std::uint64_t features) {
        if (!driver->negotiate(features)) {
            std::abort();
        }
        std::memset(fake.memory.span(Gpa{0}, kBuffers.value)->data(), 0, kBuffers.value);
        rx = DriverQueue(fake.memory, Gpa{0x1000}, rx.size());
        tx = DriverQueue(fake.memory, Gpa{0x8000}, 256);
        control = DriverQueue(fake.memory, Gpa{0x10000}, 16);
        rx_at_.clear();
        driver->set_queue(virtio::kReceive, rx);
        driver->set_queue(virtio::kTransmit, tx);
        driver->set_queue(virtio::kControl, control);
        driver->start();
        (void)run();
        (void)driver->acknowledge();
        fake.edges = 0;
    }
    /// Runs the event loop until there is nothing to do. Returns false if that takes too many
    /// rounds.
    bool run() {
        for (int i = 0; i < 10'000; ++i) {
            if (!fake.loop->run_pending()) {
                return true;
            }
        }
        return false;
    }
    /// Replaces the device by one in another process, on another tap, as a snapshot and a restore
    /// do.
    void restore() {
        const StateRecord record = attached.device->save();
        attached = {};
        build(&record);
        if (!attached.device->restored()) {
            std::abort();
        }
    }

    /// Has the device adopt the state that it is in. Nothing of its past stays.
    void adopt() {
        if (!adopt_record(*attached.device, attached.device->save())) {
            std::abort();
        }
    }

    /// Makes empty buffers available without a notification.
    void add_buffers(unsigned count, std::uint32_t size) {
        for (; count > 0; --count) {
            const std::uint64_t slot = std::max<std::uint64_t>(align_up(size, 16), 16);
            if (next_buffer_ + slot > 0x80000) {
                next_buffer_ = 0;
            }
            const Gpa at = kBuffers + next_buffer_;
            next_buffer_ += slot;
            rx_at_[rx.add({{at, size, true}})] = at;
        }
    }
    bool give_buffers(unsigned count, std::uint32_t size) {
        add_buffers(count, size);
        driver->notify(virtio::kReceive);
        return run();
    }
    /// Returns the next frame, collected from all of its buffers.
    std::optional<Frame> receive() {
        Frame frame;
        used.clear();
        for (unsigned buffers = 1; buffers > 0; --buffers) {
            const auto next = rx.take();
            if (!next) {
                if (!frame.empty()) {
                    std::abort();  // a part of the frame is missing
                }
                return std::nullopt;
            }
            used.push_back(next->written);
            const std::size_t before = frame.size();
            frame.resize(before + next->written);
            if (!fake.memory.read(rx_at_.at(static_cast<std::uint16_t>(next->head)),
                                  std::span(frame).subspan(before))) {
                std::abort();
            }
            if (before == 0) {
                buffers = frame.size() < Tap::kHeader
                              ? 1
                              : std::to_integer<unsigned>(frame[10]) | std::to_integer<unsigned>(frame[11]) << 8;
            }
        }
        return frame;
    }
    /// Makes a frame available, cut after these numbers of bytes.
    void add_frame(std::span<const std::byte> frame, std::initializer_list<std::uint32_t> cuts = {}) {
        if (next_sent_ + frame.size() > 0x3E000) {
            next_sent_ = 0;
        }
        const Gpa at = kSent + next_sent_;
        next_sent_ += align_up(frame.size(), 16);
        if (!fake.memory.write(at, frame)) {
            std::abort();
        }
        std::vector<DriverQueue::Buffer> pieces;
        std::uint32_t from = 0;
        for (const std::uint32_t cut : cuts) {
            pieces.push_back({at + from, cut - from, false});
            from = cut;
        }
        pieces.push_back({at + from, static_cast<std::uint32_t>(frame.size()) - from, false});
        tx.add(pieces);
    }
    bool send(std::span<const std::byte> frame, std::initializer_list<std::uint32_t> cuts = {}) {
        add_frame(frame, cuts);
        driver->notify(virtio::kTransmit);
        return run();
    }
    /// Returns the answer to a command, 0xEE if there is none.
    unsigned command(std::initializer_list<std::uint8_t> bytes) {
        std::vector<std::uint8_t> whole(bytes);
        (void)fake.memory.write(kCommand, std::as_bytes(std::span(whole)));
        control.store(kAnswer, std::uint8_t{0xEE});
        if (whole.empty()) {
            control.add({{kAnswer, 1, true}});
        } else {
            control.add({{kCommand, static_cast<std::uint32_t>(whole.size()), false}, {kAnswer, 1, true}});
        }
        driver->notify(virtio::kControl);
        (void)run();
        return control.load<std::uint8_t>(kAnswer);
    }
    [[nodiscard]] unsigned status() { return driver->config<std::uint16_t>(6); }
    [[nodiscard]] virtio::Net& device() {
        return dynamic_cast<virtio::Net&>(dynamic_cast<virtio::Mmio&>(*attached.device).device());
    }

    DeviceConfig config;
    FakeHost fake;
    FakeTap* tap = nullptr;  ///< if the device is on a FakeTap
    AttachedDevice attached;
    std::optional<MmioDriver> driver;
    DriverQueue rx;
    DriverQueue tx{fake.memory, Gpa{0x8000}, 256};
    DriverQueue control{fake.memory, Gpa{0x10000}, 16};
    std::vector<std::uint32_t> used;  ///< bytes written into each of the last frame's buffers

private:
    void build(const StateRecord* record) {
        for (const DeviceFactory& factory : device_factories()) {
            if (factory.kind == RecordKind::virtio_net) {
                auto built = build_device(factory, fake, config, record);
                if (!built) {
                    std::abort();
                }
                attached = *std::move(built);
                tap = FakeTap::latest;
                driver.emplace(*attached.ranges.front().device);
            }
        }
    }
    std::map<std::uint16_t, Gpa> rx_at_;
    std::uint64_t next_buffer_ = 0;
    std::uint64_t next_sent_ = 0;
};

}  // namespace snapvm::test
