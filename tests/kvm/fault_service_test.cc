// SPDX-License-Identifier: Apache-2.0
// Threads of a machine that wait in page faults for an answer of this process.
#include "vmm/memory/fault_service.h"

#include <linux/userfaultfd.h>

#include <thread>

#include "tests/kvm/rig.h"
#include "tests/kvm/tiny_rng.h"

SNAPVM_TINY_CODE(count_for_ever, R"(
1:  incq (%rbx)
    jmp 1b
)");

namespace snapvm::test {
namespace {

/// Leaves each fault, as if its answer never came.
class Silent final : public FaultHandler {
public:
    Result<bool> answer(const Fault& /*fault*/) override {
        asked = true;
        return true;
    }
    void failed(const Error& /*error*/) override {}
    std::atomic<bool> asked = false;
};

class FaultServiceMachine : public KvmTest {
protected:
    // Protects pages of the running machine, waits until one of its threads runs into them, and
    // destroys the machine.
    static void end_while_a_thread_waits(std::unique_ptr<Machine> machine, std::uint64_t first, std::uint64_t count) {
        need(machine->resume());
        ASSERT_TRUE(eventually([&] { return need(machine->memory().load<std::uint64_t>(tiny::kData)) > 0; }));
        Silent silent;
        FaultUse use(machine->memory().faults(), silent);
        const FaultUseSpec spec{.kinds = FaultKind::write_protect,
                                .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
                                .ranges = {{0, first, count}}};
        if (const Status begun = use.begin(spec); !begun) {
            GTEST_SKIP() << "userfaultfd cannot be used here: " << begun.error().message();
        }
        need(use.protect({0, first, count}));
        ASSERT_TRUE(eventually([&] { return silent.asked.load(); }));
        std::atomic<bool> ended = false;
        std::thread end([&] {
            machine.reset();
            ended = true;
        });
        EXPECT_TRUE(eventually([&] { return ended.load(); })) << "the machine waits for its thread";
        use.end();  // lets a machine end that has not
        end.join();
    }
};

TEST_F(FaultServiceMachine, AMachineEndsWhileItsVcpuWaitsInAFault) {
    end_while_a_thread_waits(tiny_machine(system(), {.code = count_for_ever}), 0, tiny::kMemory / kPageSize);
}

// Unlike a vCPU's, no signal gets this thread out of its fault.
TEST_F(FaultServiceMachine, AMachineEndsWhileItsDevicesWaitInAFault) {
    end_while_a_thread_waits(rng_machine(system()), kRngBuffer.value / kPageSize, 1);
}

}  // namespace
}  // namespace snapvm::test
