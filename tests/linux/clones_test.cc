// SPDX-License-Identifier: Apache-2.0
// Many machines run side by side from one snapshot, as a user starts them.
#include <chrono>
#include <cstddef>
#include <map>
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
    // The guest draws the number after a stream to the host has come to its end, and so not before
    // the restore. It sends both until the host has them: a stream that begins before the guest
    // hears of the restore is reset.
    (void)guest.start(
        "until guest-tool vsock-send 2 5000 here; do :; done; read number < /proc/sys/kernel/random/uuid; "
        "until guest-tool vsock-send 2 5001 $number; do :; done",
        "/run/talk");
    guest.wait_for("connect", "/run/talk");
    const AreaPath area{scratch_.file("area"), 0};
    (void)guest.snapshot_and_stop(area);

    const std::string socket = scratch_.file("vsock");
    std::vector<HostDoor> doors;  // two a clone: for "here", for the number
    for (unsigned i = 0; i < kClones; ++i) {
        const std::string number = std::to_string(i);
        copy_disk(places().disk, scratch_.file("disk" + number));
        doors.push_back(HostDoor::at_vsock(socket + number, 5000));
        doors.push_back(HostDoor::at_vsock(socket + number, 5001));
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
    // The clones share the processors, so the first of them may have no time before the last. A
    // clone that has sent its number leaves its time to the others.
    std::map<std::size_t, std::string> numbers;
    for (const auto deadline = std::chrono::steady_clock::now() + 2 * kPatience; numbers.size() < kClones;) {
        ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "only " << numbers.size() << " clones have spoken";
        const std::size_t door = HostDoor::wait_for_any(doors);
        const std::size_t clone = door / 2;
        const std::string said = doors[door].accept().receive_all();
        if (door % 2 == 0) {
            EXPECT_TRUE(said.empty() || said == "here") << said;
        } else if (!said.empty() && numbers.try_emplace(clone, said).second) {
            EXPECT_EQ(said.size(), 36U) << said;
            EXPECT_EQ(command({"stop", "clone" + std::to_string(clone), "--force"}).exit_code, 0) << clone;
        }
    }
    std::set<std::string> different;
    for (const auto& [clone, number] : numbers) {
        EXPECT_TRUE(different.insert(number).second) << "clone " << clone << " has what another has";
    }
}

}  // namespace
}  // namespace snapvm::test
