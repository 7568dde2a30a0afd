// SPDX-License-Identifier: Apache-2.0
// A driver does anything to the entropy device.
#include "tests/support/virtio_player.h"

namespace {

using namespace snapvm;

class RngPlayer final : public test::VirtioPlayer {
public:
    explicit RngPlayer(std::span<const std::byte> moves) : VirtioPlayer(RecordKind::virtio_rng, 1, 0, moves) {}

private:
    [[nodiscard]] unsigned moves() const override { return kCommonMoves; }
    void act(unsigned move, std::uint32_t a, std::uint16_t b) override { (void)move, (void)a, (void)b; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    RngPlayer(std::as_bytes(std::span(data, size))).run();
    return 0;
}
