// SPDX-License-Identifier: Apache-2.0
// A driver does anything to the balloon. The device must give up nothing but RAM.
#include "devices/virtio/balloon/balloon.h"
#include "tests/support/virtio_player.h"

namespace {

using namespace snapvm;
using virtio::Balloon;

class BalloonPlayer final : public test::VirtioPlayer {
public:
    explicit BalloonPlayer(std::span<const std::byte> moves)
        : VirtioPlayer(RecordKind::virtio_balloon, 5, 0x3F, moves) {}
    void check() { test::require(!host().memory.blocks()[1].types().touched()); }

private:
    [[nodiscard]] unsigned moves() const override { return kCommonMoves + 6; }
    void act(unsigned move, std::uint32_t a, std::uint16_t b) override {
        (void)b;
        auto& balloon = device<Balloon>();
        mmio().locked([&] {
            switch (move - kCommonMoves) {
                case 0: balloon.set_target(std::uint64_t{a} << 12); break;
                case 1: (void)balloon.request_statistics(); break;
                case 2: (void)balloon.start_hinting(hinted()); break;
                case 3: balloon.finish_hinting(); break;
                case 4: balloon.release_to(std::uint64_t{a} << 12); break;
                default: balloon.give_back();
            }
        });
    }
    Balloon::HintSink hinted() {
        return [this](std::size_t block, std::uint64_t first, std::uint64_t count) {
            const BlockSpec& spec = host().memory.blocks()[block].spec();
            test::require(spec.id == BlockId::ram_low && first < spec.pages() && count <= spec.pages() - first);
        };
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    BalloonPlayer player(std::as_bytes(std::span(data, size)));
    player.run();
    player.check();
    return 0;
}
