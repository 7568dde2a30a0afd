// SPDX-License-Identifier: Apache-2.0
// A driver writes anything into its rings. The input is a byte of settings, then the bytes of the
// rings from the descriptors on (zeros after its end). Chains must be bounded and within memory.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "devices/virtio/queue/queue.h"

namespace {

using namespace snapvm;

constexpr std::uint64_t kMemory = 256ULL << 10;
constexpr std::uint16_t kSize = 16;
constexpr std::uint64_t kRings = 3 * kPageSize;

GuestMemory make_memory() {
    std::vector<MemoryBlock> blocks;
    blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kMemory}, PagePolicy::small_pages));
    return *GuestMemory::of(std::move(blocks));
}

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static GuestMemory memory = make_memory();
    if (size == 0) {
        return 0;
    }
    std::vector<std::byte> rings(kRings);
    for (std::size_t i = 1; i < size && i - 1 < rings.size(); ++i) {
        rings[i - 1] = static_cast<std::byte>(data[i]);
    }
    require(memory.write(Gpa{0}, rings).has_value());
    virtio::Queue queue(memory, kSize);
    queue.set_size(kSize);
    queue.set_places(Gpa{0}, Gpa{kPageSize}, Gpa{2 * kPageSize});
    require(queue.set_ready().has_value());
    queue.use_event_index((data[0] & 1) != 0);
    virtio::Chain chain;
    for (unsigned i = 0; i < 2U * kSize; ++i) {
        const auto popped = queue.pop(chain);
        if (!popped || !*popped) {
            break;
        }
        require(chain.readable.size() + chain.writable.size() <= kSize + 1U);
        require(chain.readable_bytes + chain.writable_bytes <= virtio::kMaxChainBytes);
        for (const auto* segments : {&chain.readable, &chain.writable}) {
            for (const virtio::Segment& segment : *segments) {
                require(memory.span(segment.at, segment.size).has_value());
            }
        }
        queue.push(chain.head, 0);
        (void)queue.wants_interrupt();
        (void)queue.resume_notifications();
    }
    return 0;
}
