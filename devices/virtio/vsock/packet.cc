// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/vsock/packet.h"

#include <algorithm>

#include "vmm/base/bytes.h"

namespace snapvm::virtio::vsock {

std::array<std::byte, Header::kSize> Header::encode() const {
    Encoder out;
    out.u64(src_cid);
    out.u64(dst_cid);
    for (const std::uint32_t value : {src_port, dst_port, len}) {
        out.u32(value);
    }
    out.u16(type);
    out.u16(static_cast<std::uint16_t>(op));
    for (const std::uint32_t value : {flags, buf_alloc, fwd_cnt}) {
        out.u32(value);
    }
    std::array<std::byte, kSize> bytes{};
    std::ranges::copy(out.bytes(), bytes.begin());
    return bytes;
}

Header Header::decode(std::span<const std::byte, kSize> bytes) {
    Decoder in(bytes);
    Header header;
    header.src_cid = in.u64();
    header.dst_cid = in.u64();
    for (std::uint32_t* value : {&header.src_port, &header.dst_port, &header.len}) {
        *value = in.u32();
    }
    header.type = in.u16();
    header.op = static_cast<Op>(in.u16());
    for (std::uint32_t* value : {&header.flags, &header.buf_alloc, &header.fwd_cnt}) {
        *value = in.u32();
    }
    return header;
}

}  // namespace snapvm::virtio::vsock
