// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/vmgenid/vmgenid.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"

namespace snapvm {

std::vector<std::byte> VmGenIdStateV1::encode() const {
    Encoder out;
    out.u64(generation);
    return out.take();
}

Result<VmGenIdStateV1> VmGenIdStateV1::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    VmGenIdStateV1 state;
    state.generation = in.u64();
    TRY(in.finish("VM generation ID's state"));
    return state;
}

void VmGenId::read(std::uint64_t /*offset*/, std::span<std::byte> data) { std::ranges::fill(data, std::byte{0xFF}); }
void VmGenId::write(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) {}

Status VmGenId::restored() {
    {
        const std::lock_guard lock(mutex_);
        ++state_.generation;
    }
    TRY(write_new_id());
    host_.interrupts->pulse(gsi_);
    return {};
}

Status VmGenId::write_new_id() {
    std::array<std::byte, 16> id;
    if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
        return fail(Error::system("getrandom", "VM generation ID", errno));
    }
    return host_.memory.write(at_, id);
}

}  // namespace snapvm
