// SPDX-License-Identifier: Apache-2.0
// The ways in which Linux ends a machine.
#include <string>
#include <vector>

#include "tests/linux/linux_fixture.h"

namespace snapvm::test {
namespace {

class LinuxEnds : public LinuxTest {
protected:
    /// Returns the outcome after a command that ends the machine.
    Outcome outcome_of(const std::string& command) {
        LinuxGuest guest = restore_booted();
        guest.type(command + "\n");
        return guest.wait_end();
    }
    CommandResult restored_by_command(const std::string& input) {
        copy_disk(booted_disk(), places().disk);
        std::vector<std::string> words = {"restore",
                                          booted_area().path,
                                          "--run-dir",
                                          scratch_.file("run"),
                                          "--console",
                                          "stdio",
                                          "--serial",
                                          "none",
                                          "--trust-paths",
                                          "--set",
                                          "disk.root.path=" + places().disk,
                                          "--set",
                                          "vsock.socket=" + places().vsock};
        return snapvm_command(words, input);
    }
};

TEST_F(LinuxEnds, PowerOff) {
    const Outcome outcome = outcome_of("poweroff");
    EXPECT_EQ(outcome.name(), "power-off");
    EXPECT_EQ(outcome.exit_code(), 0);
}

TEST_F(LinuxEnds, Reboot) {
    const Outcome outcome = outcome_of("reboot");
    EXPECT_EQ(outcome.name(), "reboot");
    EXPECT_EQ(outcome.exit_code(), 0);
}

TEST_F(LinuxEnds, Panic) {
    const Outcome outcome = outcome_of("echo c > /proc/sysrq-trigger");
    EXPECT_EQ(outcome.name(), "panic");
    EXPECT_EQ(outcome.exit_code(), 3);
}

TEST_F(LinuxEnds, TheCommandsExitCodeTells) {
    const CommandResult off = restored_by_command("poweroff\n");
    EXPECT_EQ(off.exit_code, 0) << off.err;
    const CommandResult again = restored_by_command("reboot\n");
    EXPECT_EQ(again.exit_code, 0) << again.err;
    const CommandResult panic = restored_by_command("echo c > /proc/sysrq-trigger\n");
    EXPECT_EQ(panic.exit_code, 3) << panic.err;
    EXPECT_NE(panic.err.find("the guest's kernel has panicked"), std::string::npos) << panic.err;
}

TEST_F(LinuxEnds, ThePowerButtonShutsItDown) {
    LinuxGuest guest = restore_booted();
    mount_disk(guest);
    (void)guest.output("echo kept > /mnt/file");
    EXPECT_TRUE(guest.machine().press_power_button(soon()));
    EXPECT_EQ(guest.wait_end().name(), "power-off");
    EXPECT_EQ(guest.trouble(), "");
    // The test neither unmounts nor syncs by hand.
    EXPECT_EQ(file_system_faults(places().disk), "");
    EXPECT_EQ(run_program({"debugfs", "-R", "cat /file", places().disk}).out, "kept\n");
}

}  // namespace
}  // namespace snapvm::test
