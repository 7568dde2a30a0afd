// SPDX-License-Identifier: Apache-2.0
// Linux boots from nothing to a shell.
#include <filesystem>
#include <fstream>

#include "tests/linux/linux_fixture.h"
#include "vmm/boot/without_acpi.h"

namespace snapvm::test {
namespace {

// A little less than ctest's limit, so that the log is shown.
constexpr std::chrono::seconds kBootPatience{SNAPVM_BOOT_TIMEOUT - 10};

class LinuxBoot : public LinuxTest {
protected:
    static void make_file_system(const std::string& disk) {
        std::filesystem::remove(disk);
        std::ofstream(disk).flush();
        std::filesystem::resize_file(disk, 32 << 20);
        // mkfs writes everything here. Otherwise the guest would do it later, unnoticed by the
        // test.
        const CommandResult made =
            run_program({"mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk});
        ASSERT_EQ(made.exit_code, 0) << made.err;
    }
};

TEST_F(LinuxBoot, GetsToAShell) {
    const std::filesystem::path folder = std::filesystem::path(booted_disk()).parent_path();
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    make_file_system(booted_disk());
    GuestPlaces here = places();
    here.disk = booted_disk();
    LinuxGuest guest = LinuxGuest::boot(LinuxImage::find(), here);
    guest.wait_for_shell(kBootPatience);
    EXPECT_EQ(guest.output("echo $((6 * 7))"), "42");
    EXPECT_EQ(guest.trouble(), "");
    const SnapshotReport report = guest.snapshot_and_stop(booted_area());
    EXPECT_EQ(report.type, "full");
}

// Linux finds the same devices if no ACPI table names them.
TEST_F(LinuxBoot, FindsDevicesOnItsCommandLine) {
    make_file_system(places().disk);
    const unsigned devices = places().tap.empty() ? 5 : 6;
    LinuxGuest guest = LinuxGuest::boot(LinuxImage::find(), places(), arguments_without_acpi(devices));
    guest.wait_for_shell(kBootPatience);
    EXPECT_EQ(guest.output("ls /sys/bus/virtio/devices | wc -l"), std::to_string(devices));
    mount_disk(guest);
    EXPECT_EQ(guest.output("echo kept > /mnt/file && umount /mnt && mount -t ext4 /dev/vda /mnt && cat /mnt/file"),
              "kept");
    EXPECT_EQ(guest.trouble(), "");
}

// The first processor starts the others, and all of them go on after a restore.
TEST_F(LinuxBoot, StartsAllProcessors) {
    make_file_system(places().disk);
    LinuxGuest guest = LinuxGuest::boot(LinuxImage::find(), places(), {}, 2);
    guest.wait_for_shell(kBootPatience);
    EXPECT_EQ(guest.output("cat /sys/devices/system/cpu/online"), "0-1");
    const AreaPath area{scratch_.file("area"), 0};
    (void)guest.snapshot_and_stop(area);
    LinuxGuest restored = LinuxGuest::restore(area, places());
    EXPECT_EQ(restored.output("taskset 1 echo first; taskset 2 echo second"), "first\nsecond");
    const std::string verdict = restored.output("guest-tool load 1 2 16");
    EXPECT_TRUE(verdict.starts_with("LOAD OK")) << verdict;
    EXPECT_EQ(restored.trouble(), "");
}

}  // namespace
}  // namespace snapvm::test
