// SPDX-License-Identifier: Apache-2.0
// Network interfaces of machines on real taps. A guest of a few instructions sends back what it
// gets, over snapshots and restores. Further tests use the command line.
#include <cstring>
#include <map>
#include <thread>

#include "tests/kvm/cli_fixture.h"
#include "tests/kvm/harness.h"
#include "tests/kvm/rig.h"
#include "tests/kvm/tiny_virtio.h"
#include "tests/support/tap_network.h"
#include "tests/support/virtio_driver.h"
#include "vmm/platform/platform.h"

// The guest offers a buffer, and sends the frame that comes into it. The available rings' entries
// are zeros, so each is descriptor 0. Counter 0 counts frames sent.
SNAPVM_TINY_CODE(send_back, SNAPVM_TINY_SET_UP_VIRTIO R"(
    xor %ecx, %ecx
    mov $0xd0000050, %edi
3:  inc %ecx
    mov %cx, 0x91002
    movl $0, (%rdi)
4:  cmp %cx, 0x92002
    je 5f
    pause
    jmp 4b
5:  mov %cx, 0x94002
    movl $1, (%rdi)
6:  cmp %cx, 0x95002
    je 7f
    pause
    jmp 6b
7:  incq (%rbx)
    jmp 3b
)");

namespace snapvm::test {
namespace {

constexpr Gpa kBuffer{0xA0000};
constexpr std::uint32_t kHeader = 12;
constexpr std::uint32_t kFrame = 60;

std::vector<std::byte> numbered_frame(std::uint32_t number) {
    std::vector<std::byte> frame(kFrame);
    std::memset(frame.data(), 0xFF, 6);
    frame[12] = std::byte{0x88};
    frame[13] = std::byte{0xB5};
    std::memcpy(frame.data() + 14, &number, sizeof number);
    return frame;
}

class NetMachine : public KvmTest {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        if (!IsSkipped() && !network_.reason().empty()) {
            GTEST_SKIP() << network_.reason();
        }
    }
    static std::unique_ptr<Machine> create(const std::string& tap) {
        MachineConfig config;
        config.memory_bytes = tiny::kMemory;
        config.devices.nets = {{.id = "eth0", .tap = tap, .mac = {2, 0, 0, 0, 0, 1}}};
        auto machine = tiny_machine(system(), {.code = send_back}, config);
        DriverQueue in(machine->memory(), Gpa{0x90000}, 8);
        DriverQueue out(machine->memory(), Gpa{0x93000}, 8);
        in.write_descriptor(0, kBuffer, 2048, DriverQueue::kWrite, 0);
        out.write_descriptor(0, kBuffer, kHeader + kFrame, 0, 0);
        tiny::write_registers(machine->memory(), platform::kVirtioBase, 0, {in, out});
        return machine;
    }
    static std::unique_ptr<Machine> restore_on(const AreaPath& path, const std::string& tap) {
        RestoredSnapshot snapshot = need(open_snapshot(path));
        snapshot.saved.config.devices.nets[0].tap = tap;
        return need(Machine::restore(system(), snapshot.saved, std::move(snapshot.memory)));
    }
    static bool comes_back(const PacketSocket& host, std::uint32_t number) {
        while (const auto frame = host.receive()) {
            if (*frame == numbered_frame(number)) {
                return true;
            }
        }
        return false;
    }

    TapNetwork network_;
    std::uint32_t number_ = 0;
};

// At each of these moments a frame may be in the tap, in memory, or sent and not noticed. The
// machine itself loses none.
TEST_F(NetMachine, FramesGoOnOverSnapshotsAndRestores) {
    network_.add("one");
    network_.add("two");
    const PacketSocket host("one");
    const PacketSocket other("two");
    const auto machine = create("one");
    need(machine->resume());
    ASSERT_TRUE(host.send(numbered_frame(++number_)));
    ASSERT_TRUE(comes_back(host, number_));
    for (int moment = 0; moment < 15; ++moment) {
        SCOPED_TRACE(moment);
        ASSERT_TRUE(host.send(numbered_frame(++number_)));
        run_a_while(300us);
        WriteOptions options;
        options.mode = moment % 3 == 0 ? SnapshotMode::stop : SnapshotMode::live;
        const AreaPath path = area(moment % 2 == 0 ? "even" : "odd");
        snapshot(*machine, path, options);
        ASSERT_TRUE(comes_back(host, number_)) << "the machine itself";
        const auto copy = restore_on(path, "two");
        need(copy->resume());
        ASSERT_TRUE(other.send(numbered_frame(++number_)));
        ASSERT_TRUE(comes_back(other, number_)) << "the restored one";
    }
    const NetworkStats stats = machine->stats().networks.at(0);
    EXPECT_EQ(stats.id, "eth0");
    EXPECT_TRUE(stats.link_up);
    std::map<std::string_view, std::uint64_t> counters;
    for (const Counters::Value& counter : stats.counters) {
        counters[counter.name] = counter.value;
    }
    EXPECT_GE(counters.at("received_frames"), 16U);
    EXPECT_EQ(counters.at("received_dropped") + counters.at("transmitted_dropped"), 0U);
}

// Frames that come meanwhile wait in the tap.
TEST_F(NetMachine, APausedMachineTakesNothing) {
    network_.add("one");
    const PacketSocket host("one");
    const auto machine = create("one");
    need(machine->resume());
    ASSERT_TRUE(host.send(numbered_frame(++number_)));
    ASSERT_TRUE(comes_back(host, number_));
    need(machine->pause());
    const auto memory = machine->memory().blocks()[0].bytes();
    const std::vector<std::byte> copy(memory.begin(), memory.end());
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(host.send(numbered_frame(++number_)));
    }
    std::this_thread::sleep_for(2ms);
    EXPECT_EQ(std::memcmp(copy.data(), memory.data(), copy.size()), 0);
    EXPECT_FALSE(host.receive(/*wait=*/false).has_value());
    need(machine->resume());
    for (std::uint32_t number = 2; number <= number_; ++number) {
        EXPECT_TRUE(comes_back(host, number));
    }
}

class CliNet : public Cli {
protected:
    void SetUp() override {
        Cli::SetUp();
        if (!IsSkipped() && !network_.reason().empty()) {
            GTEST_SKIP() << network_.reason();
        }
    }
    TapNetwork network_;
};

TEST_F(CliNet, AMachineHasATapForItself) {
    network_.add("one");
    network_.add("two");
    const auto started = run_ledger("ws=4M", "", {"-d", "--name", "a", "--net", "id=eth0,tap=one"});
    ASSERT_EQ(started.exit_code, 0) << started.err;
    const json stats = json_of({"stats", "a"})["network_interfaces"][0];
    EXPECT_EQ(stats["id"], "eth0");
    EXPECT_EQ(stats["link_up"], true);
    EXPECT_NE(command({"stats", "a"}).out.find("network_interfaces.eth0.link_up"), std::string::npos);
    const auto second = run_ledger("ws=4M", "", {"--net", "id=eth0,tap=one"});
    EXPECT_EQ(second.exit_code, 1);
    EXPECT_NE(second.err.find("(tap one) is in use: another machine has it"), std::string::npos) << second.err;
    const std::string area = scratch_.file("area");
    ASSERT_EQ(command({"snapshot", "a", area}).exit_code, 0);
    // The restored machine runs beside the first one, so it needs a tap of its own.
    EXPECT_EQ(command({"restore", area, "-d", "--name", "b"}).exit_code, 1);
    EXPECT_EQ(command({"restore", area, "--set", "net.eth1.tap=two"}).exit_code, 2);
    EXPECT_EQ(command({"restore", area, "--set", "net.eth0.mac=02:00:00:00:00:01"}).exit_code, 2);
    EXPECT_EQ(command({"restore", area, "-d", "--name", "b", "--set", "net.eth0.tap=two"}).exit_code, 0);
    EXPECT_EQ(json_of({"stats", "b"})["network_interfaces"][0]["link_up"], true);
    // Several machines each need their own tap.
    const auto shared = command({"restore", area, "-n", "2", "--name", "c"});
    EXPECT_EQ(shared.exit_code, 2);
    EXPECT_NE(shared.err.find("net.eth0.tap=TAP{i}"), std::string::npos) << shared.err;
    network_.add("three-0");
    network_.add("three-1");
    EXPECT_EQ(command({"restore", area, "-n", "2", "--name", "c", "--set", "net.eth0.tap=three-{i}"}).exit_code, 0);
    EXPECT_EQ(machines().size(), 4U);
}

TEST_F(CliNet, ATapThatCannotBeHadIsSaidInOneLine) {
    for (const auto& [tap, what] : {std::pair{"nosuch", "ip tuntap add dev nosuch mode tap"},
                                    {"lo", "is not a tap"},
                                    {"tap%d", "not the name of an interface"}}) {
        const auto refused = run_ledger("ws=4M", "", {"--net", std::string("id=eth0,tap=") + tap});
        EXPECT_NE(refused.exit_code, 0);
        EXPECT_NE(refused.err.find(what), std::string::npos) << refused.err;
        EXPECT_EQ(std::ranges::count(refused.err, '\n'), 1) << refused.err;
    }
}

}  // namespace
}  // namespace snapvm::test
