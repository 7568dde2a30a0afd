// SPDX-License-Identifier: Apache-2.0
// The vsock device under a driver that does as the input says: packets with any header, short
// chains, buffers of any size, and host programs that connect, write and leave. The device must
// neither crash nor work without end.
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/scratch_folder.h"
#include "tests/support/vsock_guest.h"

namespace {

using namespace snapvm;

constexpr std::uint32_t kPort = 52;

class Input {
public:
    explicit Input(std::span<const std::uint8_t> bytes) : rest_(bytes) {}
    [[nodiscard]] bool empty() const { return rest_.empty(); }
    std::uint8_t byte() {
        if (rest_.empty()) {
            return 0;
        }
        const std::uint8_t value = rest_.front();
        rest_ = rest_.subspan(1);
        return value;
    }
    std::vector<std::byte> take(std::size_t size) {
        const auto part = std::as_bytes(rest_.first(std::min(size, rest_.size())));
        rest_ = rest_.subspan(part.size());
        return {part.begin(), part.end()};
    }

private:
    std::span<const std::uint8_t> rest_;
};

// Returns a header that is nearly right, so that the fuzzer gets past the first check. `send_raw`
// packets are not helped.
virtio::vsock::Header likely_header(Input& input) {
    virtio::vsock::Header header = test::VsockGuest::header(virtio::vsock::Op{input.byte()}, input.byte() % 3,
                                                            input.byte() % 4 == 0 ? 1U << 30 : kPort);
    header.flags = input.byte();
    header.buf_alloc = input.byte() * 16U;
    header.fwd_cnt = input.byte();
    return header;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const test::ScratchFolder scratch;
    const std::string path = scratch.file("v");
    Input input({data, size});
    test::VsockGuest guest(path, input.byte() % 33, input.byte() % 5);
    const auto listener = Listener::open(path + "_" + std::to_string(kPort), "another");
    std::vector<UniqueFd> ends;
    for (int steps = 0; steps < 200 && !input.empty(); ++steps) {
        switch (input.byte() % 10) {
            case 0: guest.send_raw(input.take(input.byte()), input.byte()); break;
            case 1: guest.give_buffers(input.byte() % 4, input.byte() * 4U); break;
            case 2: guest.give_event_buffers(1); break;
            case 3:
                guest.tx().offer(input.byte());
                guest.driver().notify(1);
                break;
            case 4:
                if (auto client = connect_unix(path); client && ends.size() < 20) {
                    ends.push_back(*std::move(client));
                }
                break;
            case 5:
                if (!ends.empty()) {
                    const auto bytes = input.take(input.byte());
                    test::write_socket(ends.back().get(), {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
                }
                break;
            case 6:
                if (!ends.empty()) {
                    ends.pop_back();
                }
                break;
            case 7: guest.restore(); break;
            case 8:
                if (UniqueFd met(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC));
                    met.valid() && ends.size() < 20) {
                    ends.push_back(std::move(met));
                }
                break;
            default: {
                const virtio::vsock::Header header = likely_header(input);
                guest.send(header, std::string(input.byte(), 'x'));
            }
        }
        if (!guest.run()) {
            std::abort();
        }
        if (input.byte() % 2 == 0) {
            while (guest.receive()) {
            }
        }
    }
    return 0;
}
