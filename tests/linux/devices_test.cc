// SPDX-License-Identifier: Apache-2.0
// Linux' own drivers use our devices.
#include <future>
#include <thread>

#include "tests/linux/host_streams.h"
#include "tests/linux/linux_fixture.h"

namespace snapvm::test {
namespace {

using LinuxDevices = LinuxTest;

TEST_F(LinuxDevices, TheConsoleIsAShells) {
    LinuxGuest guest = restore_booted();
    EXPECT_EQ(guest.output("tty"), "/dev/hvc0");
    const LinuxGuest::Answer answer = guest.run("echo some; echo more >&2; (exit 7)");
    EXPECT_EQ(answer.output, "some\nmore\n");
    EXPECT_EQ(answer.status, 7);
    // This command prints much at once.
    EXPECT_EQ(guest.output("seq 1000 1299").size(), 300U * 5 - 1);
    EXPECT_EQ(guest.trouble(), "");
}

TEST_F(LinuxDevices, AFileSystemIsOnTheDisk) {
    LinuxGuest guest = restore_booted();
    mount_disk(guest);
    (void)guest.output(
        "mkdir /mnt/folder && for i in 1 2 3 4 5; do echo line $i; done > /mnt/folder/file && head -c 300000 "
        "/bin/busybox > "
        "/mnt/part");
    (void)guest.output("sync");
    const std::string sum = guest.output("head -c 300000 /bin/busybox | md5sum");
    // After the remount the data comes from the disk.
    (void)guest.output("umount /mnt && mount -t ext4 /dev/vda /mnt");
    EXPECT_EQ(guest.output("md5sum < /mnt/part"), sum);
    (void)guest.output("umount /mnt");
    EXPECT_EQ(guest.trouble(), "");
    guest.machine().end({.kind = Outcome::Kind::stopped, .code = 0, .error = {}});
    EXPECT_EQ(file_system_faults(places().disk), "");
    EXPECT_EQ(run_program({"debugfs", "-R", "cat /folder/file", places().disk}).out,
              "line 1\nline 2\nline 3\nline 4\nline 5\n");
}

TEST_F(LinuxDevices, TheNetworkCarriesPingsAndStreams) {
    SNAPVM_REQUIRE_NETWORK();
    LinuxGuest guest = restore_booted();
    give_address(guest);
    (void)guest.output(std::string("ping -c 3 -W 20 ") + kHostAddress);
    EXPECT_TRUE(ping(kGuestAddress));

    // From the guest: the guest's count and checksum match what has come.
    const HostDoor door = HostDoor::at_tcp(7000);
    auto received = std::async(std::launch::async, [&] { return door.accept().receive_all(); });
    const std::string said = guest.output(std::string("guest-tool tcp-send ") + kHostAddress + " 7000 600000");
    const std::string bytes = received.get();
    EXPECT_EQ(said, "TCP SENT bytes=600000 crc32=" + crc32_text(bytes));
    EXPECT_EQ(bytes.size(), 600'000U);

    // To the guest.
    (void)guest.start("guest-tool tcp-sum 7001", "/run/sum");
    guest.wait_for("LISTENING", "/run/sum");
    const std::string more = random_bytes(600'000);
    {
        const HostStream stream = HostStream::to_tcp(kGuestAddress, 7001);
        stream.send(more);
    }
    guest.wait_for("TCP SUM", "/run/sum");
    EXPECT_EQ(guest.output("tail -n 1 /run/sum"), "TCP SUM bytes=600000 crc32=" + crc32_text(more));
    EXPECT_EQ(guest.trouble(), "");
}

TEST_F(LinuxDevices, VsockCarriesStreamsBothWays) {
    LinuxGuest guest = restore_booted();
    (void)guest.start("guest-tool vsock-echo 7000", "/run/echo");
    guest.wait_for("LISTENING", "/run/echo");
    const std::string bytes = random_bytes(300'000);
    {
        const HostStream stream = HostStream::to_vsock(places().vsock, 7000);
        auto echoed = std::async(std::launch::async, [&] { return stream.receive_all(); });
        stream.send(bytes);
        stream.end_sending();
        EXPECT_TRUE(echoed.get() == bytes);
    }
    const HostDoor door = HostDoor::at_vsock(places().vsock, 5000);
    auto heard = std::async(std::launch::async, [&] {
        const HostStream stream = door.accept();
        std::string said = stream.receive_all();
        stream.send("heard");
        return said;
    });
    EXPECT_EQ(guest.output("guest-tool vsock-send 2 5000 'a word'"), "heard");
    EXPECT_EQ(heard.get(), "a word");
    EXPECT_EQ(guest.trouble(), "");
}

TEST_F(LinuxDevices, RandomNumbersComeFromTheHost) {
    LinuxGuest guest = restore_booted();
    EXPECT_EQ(guest.output("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");
    const std::string first = guest.output("head -c 32 /dev/hwrng | md5sum");
    EXPECT_NE(guest.output("head -c 32 /dev/hwrng | md5sum"), first);
    // Besides the device, only the seed in the boot parameters can feed the pool of such a kernel
    // at boot.
    EXPECT_EQ(guest.run("dmesg | grep 'crng init done'").status, 0);
    EXPECT_EQ(guest.trouble(), "");
}

TEST_F(LinuxDevices, TheBalloonTakesMemoryAndGivesItBack) {
    constexpr std::uint64_t kSize = 16ULL << 20;
    LinuxGuest guest = restore_booted();
    const auto size_becomes = [&](std::uint64_t bytes) {
        need(guest.machine().balloon().set_target(bytes));
        return eventually([&] { return need(guest.machine().balloon().status()).actual_bytes == bytes; });
    };
    const auto free_memory = [&] {
        return std::stoull(guest.output(
                   "while read -r name size unit; do case $name in MemFree:) echo $size;; esac; done < /proc/meminfo"))
               << 10;
    };
    // Right after the boot the guest reports its free pages, and does not count them as free
    // meanwhile.
    std::uint64_t before = 0;
    ASSERT_TRUE(eventually([&] { return (before = free_memory()) > 4 * kSize; }));
    ASSERT_TRUE(size_becomes(kSize));
    const std::uint64_t less = free_memory();
    EXPECT_LT(less + kSize - (4 << 20), before);
    ASSERT_TRUE(size_becomes(0));
    EXPECT_GT(free_memory(), less + kSize - (4 << 20));
    EXPECT_EQ(guest.trouble(), "");
}

}  // namespace
}  // namespace snapvm::test
