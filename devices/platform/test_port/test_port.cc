// SPDX-License-Identifier: Apache-2.0
#include "devices/platform/test_port/test_port.h"

#include <algorithm>
#include <cstring>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

enum Command : std::uint64_t { kReady = 0, kExit = 4, kMark = 8 };

}  // namespace

std::vector<std::byte> TestPortStateV1::encode() const {
    Encoder out;
    out.boolean(ready);
    out.u32(ready_value);
    out.u32(mark);
    out.u64(marks);
    return out.take();
}

Result<TestPortStateV1> TestPortStateV1::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    TestPortStateV1 state;
    state.ready = in.boolean();
    state.ready_value = in.u32();
    state.mark = in.u32();
    state.marks = in.u64();
    TRY(in.finish("test port's state"));
    return state;
}

Status TestPort::restored() {
    if (const TestPortStateV1 now = state(); now.ready) {
        events_.ready(now.ready_value);
    }
    return {};
}

void TestPort::read(std::uint64_t offset, std::span<std::byte> data) {
    const std::uint32_t value = offset == 0 ? kMagic : 0;
    std::ranges::fill(data, std::byte{0});
    std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
}

void TestPort::write(std::uint64_t offset, std::span<const std::byte> data) {
    std::uint32_t value = 0;
    std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
    switch (offset) {
        case kReady: {
            {
                const std::lock_guard lock(mutex_);
                state_.ready = true;
                state_.ready_value = value;
            }
            events_.ready(value);
            break;
        }
        case kExit: events_.request(GuestRequest::exit_code, static_cast<std::uint8_t>(value)); break;
        case kMark: {
            {
                const std::lock_guard lock(mutex_);
                state_.mark = value;
                ++state_.marks;
            }
            events_.mark(value);
            break;
        }
        default: break;
    }
}

void TestPort::ExitPort::read(std::uint64_t /*offset*/, std::span<std::byte> data) {
    std::ranges::fill(data, std::byte{0});
}

void TestPort::ExitPort::write(std::uint64_t /*offset*/, std::span<const std::byte> data) {
    events_.request(GuestRequest::exit_code,
                    static_cast<std::uint8_t>(std::to_integer<std::uint8_t>(data[0]) << 1 | 1));
}

}  // namespace snapvm
