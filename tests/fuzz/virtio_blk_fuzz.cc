// SPDX-License-Identifier: Apache-2.0
// A driver does anything to the block device. The first byte chooses the disk and the features;
// then come steps that write rings, descriptors, headers and registers. The disk is a real one, in
// memory.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

#include "tests/support/blk_rig.h"

namespace {

using namespace snapvm;
using test::BlkRig;

BlkRig make_rig(bool read_only) {
    static const int fd = [] {
        const int made = ::memfd_create("disk", MFD_CLOEXEC);
        return ::ftruncate(made, 1 << 20) == 0 ? made : -1;
    }();
    // Each disk is opened through a file of its own. The read-only one is never written.
    DiskOptions options;
    options.read_only = read_only;
    const std::string path = read_only ? test::memory_disk() : "/proc/self/fd/" + std::to_string(fd);
    return BlkRig(*open_disk("root", path, options), BlkRig::kAllFeatures, 16);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static BlkRig writable = make_rig(false);
    static BlkRig read_only = make_rig(true);
    Decoder in(std::as_bytes(std::span(data, size)));
    const std::uint8_t choice = in.u8();
    BlkRig& rig = (choice & 2) != 0 ? read_only : writable;
    const std::uint64_t features =
        (choice & 1) != 0 ? BlkRig::kAllFeatures : BlkRig::kAllFeatures & ~BlkRig::kEventIndex;
    rig.host.log.clear();
    std::memset(rig.host.memory.blocks()[0].host(), 0, 0x20000);
    rig.connect((choice & 4) != 0 ? 0 : features);
    for (int steps = 0; in.left() > 0 && steps < 1000; ++steps) {
        switch (in.u8()) {
            case 0: {
                const std::uint32_t at = in.u32() % 0x1FFF8;
                rig.queue.store(Gpa{at}, in.u64());
                break;
            }
            case 1: {
                const std::uint8_t index = in.u8();
                const std::uint32_t at = in.u32();
                const std::uint32_t bytes = in.u32();
                const std::uint8_t flags = in.u8();
                rig.queue.write_descriptor(index % 16, Gpa{at}, bytes, flags, in.u8());
                break;
            }
            case 2: rig.queue.offer(in.u8()); break;
            case 3: {
                const std::uint8_t index = in.u8() % 16;
                const std::uint32_t type = in.u32();
                rig.put_header(index, type, in.u64());
                break;
            }
            case 4: rig.notify(); break;
            case 5: rig.connect(features); break;
            case 6: {
                const std::uint64_t offset = in.u8() * 4ULL % virtio::kMmioSize;
                rig.driver->write(offset, in.u32());
                break;
            }
            default: break;
        }
    }
    rig.notify();
    rig.host.loop->quiesce();  // waits for all requests in flight
    rig.host.loop->thaw();
    return 0;
}
