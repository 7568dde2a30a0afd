// SPDX-License-Identifier: Apache-2.0
// Trap: an I/O exit is not completed before the state is read. A device counts its accesses, and a
// guest counts too. Between accesses the guest is paused and its state moves to new vCPUs,
// repeatedly. An access that ran twice or never makes the counts differ.
#include <thread>

#include "tests/kvm/rig.h"

// Counter 0 counts accesses (or strings) that are done, counter 1 values that were not expected.
SNAPVM_TINY_CODE(port_reads, R"(
    xor %esi, %esi
    mov $0x700, %edx
1:  in %dx, %eax
    cmp %esi, %eax
    je 2f
    incq 8(%rbx)
    mov %eax, %esi
2:  inc %esi
    incq (%rbx)
    jmp 1b
)");
SNAPVM_TINY_CODE(port_writes, R"(
    xor %eax, %eax
    mov $0x700, %edx
1:  out %eax, %dx
    inc %eax
    incq (%rbx)
    jmp 1b
)");
SNAPVM_TINY_CODE(port_string_reads, R"(
    xor %esi, %esi
    mov $0x700, %edx
1:  mov $0x72000, %edi
    mov $96, %ecx
    rep insb
    mov $0x72000, %edi
    mov $96, %ecx
2:  cmp %sil, (%rdi)
    je 3f
    incq 8(%rbx)
3:  inc %esi
    inc %edi
    dec %ecx
    jnz 2b
    incq (%rbx)
    jmp 1b
)");
SNAPVM_TINY_CODE(port_string_writes, R"(
    mov $0x700, %edx
    mov $0x72000, %edi
    xor %eax, %eax
1:  mov %al, (%rdi)
    inc %edi
    inc %al
    jnz 1b
2:  mov $0x72000, %esi
    mov $256, %ecx
    rep outsb
    incq (%rbx)
    jmp 2b
)");
SNAPVM_TINY_CODE(mmio_reads, R"(
    xor %esi, %esi
    mov $0xd0000000, %edi
1:  mov (%rdi), %eax
    cmp %esi, %eax
    je 2f
    incq 8(%rbx)
    mov %eax, %esi
2:  inc %esi
    incq (%rbx)
    jmp 1b
)");
SNAPVM_TINY_CODE(mmio_writes, R"(
    xor %eax, %eax
    mov $0xd0000000, %edi
1:  mov %eax, (%rdi)
    inc %eax
    incq (%rbx)
    jmp 1b
)");

namespace snapvm::test {
namespace {

struct Access {
    const char* name;
    const TinyCode* code;
    std::uint32_t accesses;  ///< of the guest between two counts
    bool user;
};

class IoCompletion : public KvmTest, public ::testing::WithParamInterface<Access> {};

TEST_P(IoCompletion, NoAccessRunsTwiceOrNever) {
    constexpr int kPauses = 120;
    const Access& access = GetParam();
    Rig rig(system(), {.code = *access.code, .user = access.user});
    need(rig.vcpus().start());
    for (int i = 0; i < kPauses; ++i) {
        run_a_while(300us);
        rig.vcpus().pause();
        if (i % 2 == 0) {
            rig.vcpus().resume();
            continue;
        }
        rig.move_to_new_vm();
        need(rig.vcpus().start());
    }
    const std::uint64_t before = rig.counter(0);
    for (const auto deadline = soon(); rig.counter(0) < before + 2 && SteadyClock::now() < deadline;) {
        std::this_thread::sleep_for(1ms);
    }
    rig.vcpus().pause();
    ASSERT_EQ(rig.trouble(), "");
    EXPECT_GE(rig.counter(0), before + 2) << "the guest stands still";
    EXPECT_EQ(rig.counter(1), 0U) << "reads that came twice or never";
    EXPECT_EQ(rig.device.wrong_writes.load(), 0U) << "writes that came twice or never";
    // The totals match too, except for accesses after the guest's last count.
    const std::uint64_t done = rig.counter(0) * access.accesses;
    const std::uint64_t seen = rig.device.reads + rig.device.writes;
    EXPECT_GE(seen, done);
    EXPECT_LE(seen, done + access.accesses);
}

INSTANTIATE_TEST_SUITE_P(Accesses, IoCompletion,
                         ::testing::Values(Access{"PortReads", &port_reads, 1, true},
                                           Access{"PortReadsAtCpl0", &port_reads, 1, false},
                                           Access{"PortWrites", &port_writes, 1, true},
                                           Access{"PortStringReads", &port_string_reads, 96, true},
                                           Access{"PortStringReadsAtCpl0", &port_string_reads, 96, false},
                                           Access{"PortStringWrites", &port_string_writes, 256, true},
                                           Access{"MmioReads", &mmio_reads, 1, true},
                                           Access{"MmioReadsAtCpl0", &mmio_reads, 1, false},
                                           Access{"MmioWrites", &mmio_writes, 1, true}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace snapvm::test
