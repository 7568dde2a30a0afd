// SPDX-License-Identifier: Apache-2.0
// A driver that does anything to the balloon: the input is a list of moves, each a byte and what it needs. Whatever it is, all the device
// gives up is RAM, its memory stays whole, and what it saves can be restored.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <vector>

#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/mmio/mmio.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/virtio_driver.h"

namespace {

using namespace snapvm;
using test::DriverQueue;

constexpr Gpa kData{0x20000};

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

AttachedDevice build(test::FakeHost& host, const StateRecord* record) {
    for (const DeviceFactory& factory : device_factories()) {
        if (factory.kind == RecordKind::virtio_balloon) {
            auto built = factory.build(host.host(), test::all_devices(), 0, record);
            require(built.has_value());
            return *std::move(built);
        }
    }
    std::abort();
}

class Play {
public:
    explicit Play(std::span<const std::byte> moves) : in_(moves), attached_(build(host_, nullptr)) { start(0x3F); }

    void run() {
        while (!in_.bad() && in_.left() > 0) {
            move(in_.u8());
            for (int i = 0; i < 16 && host_.loop->run_pending(); ++i) {
            }
        }
        require(!host_.memory.blocks()[1].types().touched());
        const StateRecord record = attached_.device->save();
        test::FakeHost other;
        require(build(other, &record).device->save() == record);
    }

private:
    virtio::Mmio& mmio() { return dynamic_cast<virtio::Mmio&>(*attached_.device); }
    virtio::Balloon& balloon() { return dynamic_cast<virtio::Balloon&>(mmio().device()); }

    void start(std::uint64_t features) {
        test::MmioDriver driver(*attached_.device);
        (void)driver.negotiate(features);
        queues_.clear();
        Gpa base{0x1000};
        for (std::uint32_t i = 0; i < 5; ++i) {
            queues_.emplace_back(host_.memory, base, 8);
            driver.set_queue(i, queues_.back());
            base = queues_.back().end();
        }
        driver.start();
    }
    void move(std::uint8_t what) {
        test::MmioDriver driver(*attached_.device);
        DriverQueue& queue = queues_[in_.u8() % queues_.size()];
        const auto index = static_cast<std::uint32_t>(&queue - queues_.data());
        const std::uint32_t a = in_.u32();
        const std::uint16_t b = in_.u16();
        switch (what % 12) {
            case 0: queue.store(kData + b % 4096, a); break;
            case 1: queue.add({{kData + a % 4096, b, false}}); break;
            case 2: queue.add({{Gpa{std::uint64_t{a} << 4}, b, true}}); break;
            case 3: queue.store(Gpa{0x1000 + a % 0x10000}, b); break;
            case 4: driver.write(a % 0x120, b); break;
            case 5: start(a); break;
            case 6: mmio().locked([&] { balloon().set_target(std::uint64_t{a} << 12); }); break;
            case 7: (void)mmio().locked([&] { return balloon().request_statistics(); }); break;
            case 8: (void)mmio().locked([&] { return balloon().start_hinting(hinted()); }); break;
            case 9: mmio().locked([&] { balloon().finish_hinting(); }); break;
            case 10: mmio().locked([&] { balloon().release_to(std::uint64_t{a} << 12); }); break;
            default: mmio().locked([&] { balloon().give_back(); });
        }
        driver.notify(index);
    }
    virtio::Balloon::HintSink hinted() {
        return [this](std::size_t block, std::uint64_t first, std::uint64_t count) {
            const BlockSpec& spec = host_.memory.blocks()[block].spec();
            require(spec.id == BlockId::ram_low && first < spec.pages() && count <= spec.pages() - first);
        };
    }

    Decoder in_;
    test::FakeHost host_;
    AttachedDevice attached_;
    std::vector<DriverQueue> queues_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Play(std::as_bytes(std::span(data, std::min<std::size_t>(size, 4096)))).run();
    return 0;
}
