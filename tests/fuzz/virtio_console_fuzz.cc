// SPDX-License-Identifier: Apache-2.0
// A driver does anything to the console, while input, resizes, and output that is taken or not come
// from the host.
#include <array>

#include "devices/virtio/console/console.h"
#include "tests/support/virtio_player.h"

namespace {

using namespace snapvm;

class ConsolePlayer final : public test::VirtioPlayer {
public:
    explicit ConsolePlayer(std::span<const std::byte> moves) : VirtioPlayer(RecordKind::virtio_console, 2, 1, moves) {}

private:
    [[nodiscard]] unsigned moves() const override { return kCommonMoves + 3; }
    void act(unsigned move, std::uint32_t a, std::uint16_t b) override {
        auto& console = device<virtio::Console>();
        switch (move - kCommonMoves) {
            case 0: {
                std::array<std::uint8_t, 2 * virtio::ConsoleStateV1::kMaxInput> typed;
                typed.fill(static_cast<std::uint8_t>(a));
                const std::size_t size = b % typed.size();
                mmio().locked([&] { test::require(console.receive(std::span(typed).first(size)) <= size); });
                break;
            }
            case 1: mmio().locked([&] { console.resize(static_cast<std::uint16_t>(a), b); }); break;
            default:
                host().console.clear();
                host().console_room = b;
                console.output_ready();
        }
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    ConsolePlayer(std::as_bytes(std::span(data, size))).run();
    return 0;
}
