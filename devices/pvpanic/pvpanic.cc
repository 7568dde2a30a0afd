// SPDX-License-Identifier: Apache-2.0
#include "devices/pvpanic/pvpanic.h"

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

Result<std::unique_ptr<Pvpanic>> Pvpanic::restore(const DeviceHost& host, const StateRecord& record) {
    const PvpanicStateV1 state = TRY(PvpanicStateV1::decode(record.bytes));
    auto device = std::make_unique<Pvpanic>(host);
    device->crash_loaded_ = state.crash_loaded;
    return device;
}

StateRecord Pvpanic::save() const {
    return {RecordKind::pvpanic, PvpanicStateV1::kVersion, 0, PvpanicStateV1{crash_loaded_.load()}.encode()};
}

void Pvpanic::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    std::ranges::fill(data, std::byte{0});
    data[0] = std::byte{panicked | crash_loaded};
}

void Pvpanic::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    const auto happened = std::to_integer<std::uint8_t>(data[0]);
    if ((happened & crash_loaded) != 0) {
        crash_loaded_ = true;
    }
    if ((happened & panicked) != 0) {
        events_.request(GuestRequest::panic, 0);
    }
}

}  // namespace snapvm
