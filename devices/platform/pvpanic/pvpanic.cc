// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/pvpanic/pvpanic.h"

#include <algorithm>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"

namespace snapvm {

std::vector<std::byte> PvpanicStateV1::encode() const {
    Encoder out;
    out.boolean(crash_loaded);
    return out.take();
}

Result<PvpanicStateV1> PvpanicStateV1::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    PvpanicStateV1 state;
    state.crash_loaded = in.boolean();
    TRY(in.finish("panic port's state"));
    return state;
}

void Pvpanic::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    std::ranges::fill(data, std::byte{0});
    data[0] = std::byte{panicked | crash_loaded};
}

void Pvpanic::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    const auto happened = std::to_integer<std::uint8_t>(data[0]);
    if ((happened & crash_loaded) != 0) {
        const std::lock_guard lock(mutex_);
        state_.crash_loaded = true;
    }
    if ((happened & panicked) != 0) {
        events_.request(GuestRequest::panic, 0);
    }
}

}  // namespace snapvm
