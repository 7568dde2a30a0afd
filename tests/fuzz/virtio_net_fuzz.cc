// SPDX-License-Identifier: Apache-2.0
// A driver does anything to the network device. The first byte chooses the features and the tap;
// then come steps that write rings, descriptors, buffers and registers, while frames come and the
// tap fails. The device must neither crash nor work without end.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "tests/support/net_rig.h"

namespace {

using namespace snapvm;
using test::NetRig;

test::DriverQueue& queue_of(NetRig& rig, std::uint8_t number) {
    return number % 3 == 0 ? rig.rx : number % 3 == 1 ? rig.tx : rig.control;
}

test::Frame next_frame(Decoder& in) {
    const std::uint16_t size = in.u16();
    test::Frame frame(size);
    for (std::size_t i = 0; i < Tap::kHeader && i < frame.size(); ++i) {
        frame[i] = std::byte{in.u8()};
    }
    return frame;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Decoder in(std::as_bytes(std::span(data, size)));
    const std::uint8_t choice = in.u8();
    const std::uint64_t features = in.u64();
    NetRig rig((choice & 1) != 0 ? NetRig::kAllFeatures : features, 16, (choice & 2) != 0 ? "old" : "tap0");
    rig.tap->keep_sent = false;
    for (int steps = 0; in.left() > 0 && steps < 500; ++steps) {
        switch (in.u8() % 12) {
            case 0: {
                const std::uint32_t at = in.u32() % 0xFFFF8;
                rig.rx.store(Gpa{at}, in.u64());
                break;
            }
            case 1: {
                test::DriverQueue& queue = queue_of(rig, in.u8());
                const std::uint8_t index = in.u8() % 16;
                const std::uint32_t at = in.u32();
                const std::uint32_t bytes = in.u32();
                const std::uint8_t flags = in.u8();
                queue.write_descriptor(index, Gpa{at}, bytes, flags, in.u8());
                break;
            }
            case 2: {
                test::DriverQueue& queue = queue_of(rig, in.u8());
                queue.offer(in.u8());
                break;
            }
            case 3: rig.driver->notify(in.u8()); break;
            case 4: rig.tap->put(next_frame(in)); break;
            case 5: {
                const std::uint8_t count = in.u8() % 8;
                rig.add_buffers(count, in.u16());
                break;
            }
            case 6: (void)rig.command({in.u8(), in.u8(), in.u8(), in.u8(), 0, 0, 0, 0, in.u8(), 0}); break;
            case 7: {
                const std::uint64_t offset = in.u8() * 4ULL % virtio::kMmioSize;
                rig.driver->write(offset, in.u32());
                break;
            }
            case 8:
                switch (in.u8() % 5) {
                    case 0: rig.tap->block(TapAnswer::down); break;
                    case 1: rig.tap->block(TapAnswer::later); break;
                    case 2: rig.tap->unblock(); break;
                    case 3: rig.tap->refuse = !rig.tap->refuse; break;
                    default: rig.tap->lose(); break;
                }
                break;
            case 9: rig.restore(); break;
            case 10: rig.connect(in.u64()); break;
            default: {
                const test::Frame frame = next_frame(in);
                rig.add_frame(frame, {static_cast<std::uint32_t>(in.u8() % (frame.size() + 1))});
                break;
            }
        }
        if (!rig.run()) {
            std::abort();
        }
    }
    return 0;
}
