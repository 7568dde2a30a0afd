// SPDX-License-Identifier: Apache-2.0
// The iretq frames that lead test guests to CPL 3 have IOPL 3. The test reads them in memory,
// because some hosts drop IOPL.
#include <span>

#include "guest-images/ledger/abi.h"
#include "tests/kvm/harness.h"
#include "tests/kvm/rig.h"

SNAPVM_TINY_CODE(user_exit, R"(
    mov $0x5f4, %edx
    xor %eax, %eax
    out %eax, %dx
)");

namespace snapvm::test {
namespace {

constexpr std::uint64_t kIopl3 = 0x3000;
constexpr std::uint64_t kInterrupts = 0x200;

// RIP, CS, RFLAGS, RSP and SS.
using Frame = std::span<const std::uint64_t, 5>;

std::span<const std::uint64_t> words_of(const Machine& machine) {
    const MemoryBlock& block = machine.memory().blocks().front();
    return {reinterpret_cast<const std::uint64_t*>(block.host()), block.spec().size / 8};
}
bool leads_to_user(Frame frame) { return frame[1] == SEL_USER_CODE && frame[4] == SEL_USER_DATA; }

class UserFrames : public KvmTest {
protected:
    static constexpr std::uint64_t kMemory = 16ULL << 20;
};

TEST_F(UserFrames, TheLedgersFirstCpu) {
    const std::unique_ptr<Machine> machine = create_ledger({.cpus = 1, .cmdline = "", .memory_bytes = kMemory});
    const auto words = words_of(*machine);
    int found = 0;
    for (std::size_t at = 0; at + 5 <= words.size(); ++at) {
        if (const Frame frame = words.subspan(at).first<5>(); leads_to_user(frame)) {
            ++found;
            EXPECT_EQ(frame[2], kIopl3 | kInterrupts | 2) << "RIP 0x" << std::hex << frame[0];
        }
    }
    EXPECT_EQ(found, 1);
}

TEST_F(UserFrames, TheLedgersFurtherCpus) {
    constexpr std::uint32_t kCpus = 3;
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = kCpus, .cmdline = "ws=1M", .memory_bytes = kMemory});
    need(machine->pause());
    const auto words = words_of(*machine);
    std::uint32_t found = 0;
    // A PerCpu contains its own address.
    for (std::uint64_t at = 0; at < kMemory; at += 1ULL << PERCPU_SHIFT) {
        const Frame frame = words.subspan((at + PERCPU_FRAME) / 8).first<5>();
        if (at != 0 && words[(at + PERCPU_SELF) / 8] == at && leads_to_user(frame)) {
            ++found;
            EXPECT_EQ(frame[2], kIopl3 | kInterrupts | 2);
        }
    }
    EXPECT_EQ(found, kCpus - 1);
}

// The only such frame with interrupts off leads to the report of a trap.
TEST_F(UserFrames, TheLedgersTraps) {
    const std::unique_ptr<Machine> machine = boot_ledger({.cpus = 1, .cmdline = "ws=1M", .memory_bytes = kMemory});
    send(*machine, "u");
    (void)wait_end(*machine);
    const auto words = words_of(*machine);
    int found = 0;
    for (std::size_t at = 0; at + 5 <= words.size(); ++at) {
        if (const Frame frame = words.subspan(at).first<5>();
            leads_to_user(frame) && (frame[2] & 2) != 0 && (frame[2] & kInterrupts) == 0 && frame[2] >> 22 == 0) {
            ++found;
            EXPECT_EQ(frame[2], kIopl3 | 2);
        }
    }
    EXPECT_EQ(found, 1);
}

TEST_F(UserFrames, TheTinyGuests) {
    const TinyCode handler = user_exit;  // no interrupt comes
    for (const auto* with : {static_cast<const TinyCode*>(nullptr), &handler}) {
        const std::unique_ptr<Machine> machine =
            tiny_machine(system(), {.code = user_exit, .user = true, .vector = 0x40, .handler = with});
        need(machine->resume());
        EXPECT_EQ(wait_end(*machine).kind, Outcome::Kind::guest_exit);
        const auto frame = need(machine->memory().load<std::array<std::uint64_t, 5>>(Gpa{tiny::kKernelStack - 40}));
        EXPECT_EQ(frame[3], tiny::kUserStack);
        EXPECT_EQ(frame[2], kIopl3 | (with != nullptr ? kInterrupts : 0) | 2);
    }
}

}  // namespace
}  // namespace snapvm::test
