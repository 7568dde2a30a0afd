// SPDX-License-Identifier: Apache-2.0
// Kicks must not be lost: a pause returns whatever the vCPUs do, thousands of times, from several
// threads. Machines end in any state.
#include <sys/resource.h>

#include <thread>

#include "tests/kvm/rig.h"

SNAPVM_TINY_CODE(spin, R"(
1:  incq (%rbx)
    jmp 1b
)");
SNAPVM_TINY_CODE(halt, R"(
    cli
    incq (%rbx)
1:  hlt
    jmp 1b
)");
SNAPVM_TINY_CODE(port_loop, R"(
    mov $0x3fd, %edx
1:  in %dx, %al
    incq (%rbx)
    jmp 1b
)");
// Counts down from the number at 8(%rbx), then ends the run.
#define SNAPVM_TINY_WAIT "mov 8(%rbx), %rcx\n1: dec %rcx\njnz 1b\n"
SNAPVM_TINY_CODE(wait_power_off, SNAPVM_TINY_WAIT "mov $0x600, %edx\nmov $0x34, %al\nout %al, %dx\n2: jmp 2b");
SNAPVM_TINY_CODE(wait_exit, SNAPVM_TINY_WAIT "mov $0x5f4, %edx\nmov $7, %eax\nout %eax, %dx\n2: jmp 2b");
SNAPVM_TINY_CODE(wait_triple_fault, SNAPVM_TINY_WAIT "ud2");

namespace snapvm::test {
namespace {

struct Kind {
    const char* name;
    const TinyCode* code;
    bool user;
    bool counts;  ///< the guest goes on counting
};

class Pauses : public KvmTest, public ::testing::WithParamInterface<Kind> {};

// The second vCPU waits for a SIPI that never comes.
TEST_P(Pauses, StormFromTwoThreadsLosesNoKick) {
    constexpr int kEach = 500;
    const std::unique_ptr<Machine> machine =
        tiny_machine(system(), {.code = *GetParam().code, .user = GetParam().user}, 2);
    need(machine->resume());
    const auto storm = [&] {
        for (int i = 0; i < kEach; ++i) {
            need(machine->pause());
            need(machine->resume());
        }
    };
    std::thread other(storm);
    storm();
    other.join();
    EXPECT_EQ(machine->state(), Machine::State::running);
    const auto count = [&] { return need(machine->memory().load<std::uint64_t>(tiny::kData)); };
    const std::uint64_t before = count();
    const std::uint64_t wanted = GetParam().counts ? before + 1 : 1;
    for (const auto deadline = soon(); count() < wanted && SteadyClock::now() < deadline;) {
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_GE(count(), wanted) << "the guest stands still";
    // A paused guest does not count.
    need(machine->pause());
    const std::uint64_t paused = count();
    std::this_thread::sleep_for(2ms);
    EXPECT_EQ(count(), paused);
    need(machine->pause());
    EXPECT_EQ(machine->state(), Machine::State::paused);
}

INSTANTIATE_TEST_SUITE_P(Guests, Pauses,
                         ::testing::Values(Kind{"SpinsAtCpl3", &spin, true, true},
                                           Kind{"SpinsAtCpl0", &spin, false, true}, Kind{"Halts", &halt, false, false},
                                           Kind{"PortLoop", &port_loop, true, true},
                                           Kind{"PortLoopAtCpl0", &port_loop, false, true}),
                         [](const auto& test) { return test.param.name; });

TEST_F(KvmTest, FreezeIsIndependentOfPauseAndResume) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = spin});
    const auto count = [&] { return need(machine->memory().load<std::uint64_t>(tiny::kData)); };
    need(machine->freeze());
    EXPECT_EQ(need_error(machine->freeze()).kind(), ErrorKind::busy);
    need(machine->resume());
    std::this_thread::sleep_for(2ms);
    EXPECT_EQ(count(), 0U) << "runs though frozen";
    machine->thaw();
    for (const auto deadline = soon(); count() == 0 && SteadyClock::now() < deadline;) {
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_GT(count(), 0U);
    need(machine->freeze());
    need(machine->pause());
    const std::uint64_t frozen = count();
    machine->thaw();
    machine->thaw();
    std::this_thread::sleep_for(2ms);
    EXPECT_EQ(count(), frozen) << "runs though paused";
    need(machine->resume());
    need(machine->resume());
    EXPECT_EQ(machine->state(), Machine::State::running);
}

// A full queue refuses real-time signals. Signals of the user's other processes count too.
TEST_F(KvmTest, AFullSignalQueueLosesNoKick) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = spin, .user = true}, 2);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &before), 0);
    const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &none), 0);
    for (int i = 0; i < 20; ++i) {
        need(machine->resume());
        std::this_thread::sleep_for(1ms);
        need(machine->pause());
    }
    ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &before), 0);
    EXPECT_EQ(machine->state(), Machine::State::paused);
}

struct End {
    const char* name;
    const TinyCode* code;
    Outcome::Kind outcome;
};

class PausesAtTheEnd : public KvmTest, public ::testing::WithParamInterface<End> {};

TEST_P(PausesAtTheEnd, EndWinsOverPauseResumeAndFreeze) {
    for (int i = 0; i < 10; ++i) {
        const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = *GetParam().code});
        need(machine->memory().store(tiny::kData + 8, std::uint64_t{1 + random(100000)}));
        need(machine->resume());
        std::thread pauser([&] {
            // Goes on until the run has ended and resume is refused.
            for (bool refused = false; !refused;) {
                need(machine->pause());
                refused = !machine->resume();
                // Without some time between pauses, the guest can take minutes to reach its end.
                std::this_thread::sleep_for(std::chrono::microseconds(random(200)));
            }
        });
        while (!machine->wait_ended(SteadyClock::now() + 100us)) {
            if (machine->freeze()) {
                // A frozen machine must not have ended: a snapshot of it would lack its end.
                EXPECT_FALSE(machine->wait_ended(SteadyClock::now()).has_value());
                machine->thaw();
            }
        }
        pauser.join();
        EXPECT_EQ(wait_end(*machine).kind, GetParam().outcome);
        EXPECT_EQ(machine->state(), Machine::State::ended);
        EXPECT_EQ(need_error(machine->resume()).kind(), ErrorKind::usage);
        EXPECT_EQ(need_error(machine->freeze()).kind(), ErrorKind::usage);
        need(machine->pause());
    }
}

INSTANTIATE_TEST_SUITE_P(Ends, PausesAtTheEnd,
                         ::testing::Values(End{"PowerOff", &wait_power_off, Outcome::Kind::power_off},
                                           End{"Exit", &wait_exit, Outcome::Kind::guest_exit},
                                           End{"TripleFault", &wait_triple_fault, Outcome::Kind::triple_fault}),
                         [](const auto& test) { return test.param.name; });

// `end` may come between a resume's check of the outcome and its opening of the gate. It must not
// leave an ended machine running.
TEST_F(KvmTest, EndedMachineStandsStill) {
    for (int i = 0; i < 60; ++i) {
        const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = spin});
        need(machine->resume());
        need(machine->pause());
        std::thread ender([&] { machine->end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}}); });
        (void)machine->resume().has_value();
        ender.join();
        need(machine->pause());
        EXPECT_FALSE(machine->resume().has_value());
        const auto count = [&] { return need(machine->memory().load<std::uint64_t>(tiny::kData)); };
        const std::uint64_t ended = count();
        std::this_thread::sleep_for(200us);
        EXPECT_EQ(count(), ended);
    }
}

TEST_F(KvmTest, VcpusDoNotResumeAfterTheEnd) {
    Rig rig(system(), {.code = spin});
    need(rig.vcpus().start());
    rig.vcpus().pause();
    rig.vcpus().request_end();
    rig.vcpus().resume();
    const std::uint64_t ended = rig.counter(0);
    std::this_thread::sleep_for(5ms);
    EXPECT_EQ(rig.counter(0), ended);
    rig.vcpus().pause();
}

// The kick comes at every point between the gate and the inside of KVM_RUN. The guest sleeps for
// ever, so no other event would hide a lost kick.
TEST_F(KvmTest, PauseRightBehindResumeLosesNoKick) {
    constexpr int kRounds = 6000;
    constexpr int kStep = 50;  // ns
    Rig rig(system(), {.code = halt, .user = false});
    need(rig.vcpus().start());
    for (int i = 0; i < kRounds; ++i) {
        rig.vcpus().pause();
        rig.vcpus().resume();
        for (const auto until = SteadyClock::now() + std::chrono::nanoseconds(i * kStep % 100000);
             SteadyClock::now() < until;) {
        }
    }
    rig.vcpus().pause();
    EXPECT_EQ(rig.trouble(), "");
}

TEST_F(KvmTest, MachineCanGoInEveryState) {
    for (const TinyCode* code : {&spin, &halt, &port_loop}) {
        for (int state = 0; state < 6; ++state) {
            const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = *code, .user = code != &halt}, 3);
            if (state == 1) {
                need(machine->freeze());
            }
            if (state >= 2) {
                need(machine->resume());
                run_a_while(1ms);
            }
            if (state == 3) {
                need(machine->pause());
            }
            if (state == 4) {
                need(machine->freeze());
            }
            if (state == 5) {
                machine->end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
            }
        }
    }
    snapshot(*tiny_machine(system(), {.code = spin}), area());
    (void)restore(area());
}

TEST_F(KvmTest, FirstRunIsSeenAndNotBefore) {
    const std::unique_ptr<Machine> machine = tiny_machine(system(), {.code = spin});
    EXPECT_FALSE(machine->wait_first_run(SteadyClock::now() + 3ms).has_value());
    const auto before = SteadyClock::now();
    need(machine->resume());
    const auto first = machine->wait_first_run(soon());
    ASSERT_TRUE(first.has_value());
    EXPECT_GE(*first, before);
}

}  // namespace
}  // namespace snapvm::test
