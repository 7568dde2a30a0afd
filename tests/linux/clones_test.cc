// SPDX-License-Identifier: Apache-2.0
// Many machines from one snapshot, side by side, as a user has them.
#include <set>
#include <string>
#include <vector>

#include "tests/linux/host_streams.h"
#include "tests/linux/linux_fixture.h"

namespace snapvm::test {
namespace {

class LinuxClones : public LinuxTest {
protected:
    static constexpr unsigned kClones = SNAPVM_SANITIZED ? 4 : 20;

    void TearDown() override {
        for (unsigned i = 0; i < kClones; ++i) {
            (void)command({"stop", "clone" + std::to_string(i), "--force"});
        }
    }
    CommandResult command(std::vector<std::string> words) {
        words.insert(words.end(), {"--run-dir", scratch_.file("run")});
        return snapvm_command(words);
    }
};

TEST_F(LinuxClones, EachAnswersWithRandomNumbersOfItsOwn) {
    LinuxGuest guest = restore_booted();
    // The number is had once somebody is there to hear of it, and so not before the restore.
    (void)guest.start(
        "until guest-tool vsock-send 2 5000 here; do :; done; read number < /proc/sys/kernel/random/uuid; "
        "guest-tool vsock-send 2 5001 $number",
        "/run/talk");
    guest.wait_for("connect", "/run/talk");
    const AreaPath area{scratch_.file("area"), 0};
    (void)guest.snapshot_and_stop(area);

    const std::string socket = scratch_.file("vsock");
    std::vector<HostDoor> here;
    std::vector<HostDoor> numbers;
    for (unsigned i = 0; i < kClones; ++i) {
        const std::string number = std::to_string(i);
        copy_disk(places().disk, scratch_.file("disk" + number));
        here.push_back(HostDoor::at_vsock(socket + number, 5000));
        numbers.push_back(HostDoor::at_vsock(socket + number, 5001));
        if (network().reason().empty()) {
            network().add("clone" + number);
        }
    }
    std::vector<std::string> words = {"restore",
                                      area.path,
                                      "-n",
                                      std::to_string(kClones),
                                      "-d",
                                      "--name",
                                      "clone{i}",
                                      "--set",
                                      "disk.root.path=" + scratch_.file("disk{i}"),
                                      "--set",
                                      "vsock.socket=" + socket + "{i}"};
    if (network().reason().empty()) {
        words.insert(words.end(), {"--set", "net.eth0.tap=clone{i}"});
    }
    const CommandResult restored = command(words);
    ASSERT_EQ(restored.exit_code, 0) << restored.err;
    std::set<std::string> seen;
    for (unsigned i = 0; i < kClones; ++i) {
        EXPECT_EQ(here[i].accept().receive_all(), "here") << i;
        const std::string number = numbers[i].accept().receive_all();
        EXPECT_EQ(number.size(), 36U) << number;
        EXPECT_TRUE(seen.insert(number).second) << "clone " << i << " has what another has";
    }
    for (unsigned i = 0; i < kClones; ++i) {
        EXPECT_EQ(command({"stop", "clone" + std::to_string(i), "--force"}).exit_code, 0) << i;
    }
}

}  // namespace
}  // namespace snapvm::test
