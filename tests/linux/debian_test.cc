// SPDX-License-Identifier: Apache-2.0
// An unchanged distribution: Debian with its own kernel and systemd, by the commands that a user
// types. It boots in each test. If the host's KVM emulates kernel mode, that takes long, and the
// test runs only with SNAPVM_TEST_DEBIAN=1.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/linux/linux_fixture.h"
#include "tests/support/require_kvm.h"
#include "tests/support/terminal_command.h"
#include "vmm/emulate/kernel_mode_repair.h"

namespace snapvm::test {
namespace {

/// Messages at priority err that any machine's journal has, and why.
constexpr std::array<const char*, 3> kHarmless = {
    "PCI: Fatal: No config space access function found",  // there is no PCI
    "Failed to find module 'autofs4'",  // the disk has no modules of a kernel
    // A minimal Debian has no such file.
    "pam_env(login:session): Unable to open env file: /etc/default/locale: No such file or directory",
};

/// Returns the journal's lines that report a fault.
std::string harmful(const std::string& journal) {
    std::istringstream lines(journal);
    std::string found;
    for (std::string line; std::getline(lines, line);) {
        if (std::ranges::none_of(kHarmless, [&](const char* known) { return line == known; })) {
            found += line + "\n";
        }
    }
    return found;
}

/// Seconds by which the guest's clock is ahead of the host's. It is a range, because asking takes
/// time.
struct ClockLead {
    double least = 0;
    double most = 0;
};
constexpr double kRightTime = 5;
constexpr double kDrift = 2;  // in a minute or two

double host_time() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

class LinuxDebian : public LinuxTest {
protected:
    LinuxDebian() : slow_(emulate::kernel_mode_is_emulated()), patience_(slow_ ? 3600s : 300s) {}
    void SetUp() override;
    void TearDown() override { (void)command({"stop", "debian", "--force"}); }

    CommandResult command(std::vector<std::string> words) const { return snapvm_command(in_run_dir(std::move(words))); }
    /// Starts a command that has the terminal until its machine ends.
    void start(std::vector<std::string> words) {
        terminal_ = std::make_unique<TerminalCommand>(in_run_dir(std::move(words)), 80, 25);
    }
    /// Waits for text on the terminal, and returns what was before it.
    std::string said_before(const std::string& text) {
        const auto said = terminal_->take_until(text, patience_);
        return said ? *said
                    : throw std::runtime_error("\"" + text +
                                               "\" does not come. On the terminal: " + terminal_->screen());
    }
    /// Boots to the login prompt and logs in as root, who has no password.
    void boot();
    /// Returns a command's output without its last newline. The command must end with 0.
    std::string output(const std::string& command);
    /// Expects that each kind of work that the test has started goes on.
    void expect_work_goes_on();
    ClockLead clock_lead();
    /// Returns the exit code of the command that has the terminal.
    int exit_code() { return terminal_->exit_code(patience_); }
    [[nodiscard]] const std::string& screen() const { return terminal_->screen(); }
    void type(const std::string& text) { terminal_->type(text); }

    [[nodiscard]] std::string disk() const { return scratch_.file("disk"); }
    [[nodiscard]] bool slow() const { return slow_; }

private:
    [[nodiscard]] std::vector<std::string> in_run_dir(std::vector<std::string> words) const {
        words.insert(words.end(), {"--run-dir", scratch_.file("run")});
        return words;
    }

    bool slow_;
    std::chrono::seconds patience_;
    std::unique_ptr<TerminalCommand> terminal_;
    unsigned commands_ = 0;
};

void LinuxDebian::SetUp() {
    SNAPVM_REQUIRE_KVM();
    if (!std::filesystem::exists(image_folder() + "/debian.inputs")) {
        GTEST_SKIP() << "the image is not built (./dev linux --debian)";
    }
    if (slow_ && std::getenv("SNAPVM_TEST_DEBIAN") == nullptr) {
        GTEST_SKIP() << "kernel mode is emulated here, and systemd takes long to start: SNAPVM_TEST_DEBIAN=1 runs it "
                        "all the same";
    }
    copy_disk(image_folder() + "/debian.ext4", disk());
}

void LinuxDebian::boot() {
    start({"run", "--kernel", image_folder() + "/cloud-vmlinuz", "--initrd", image_folder() + "/debian-initramfs.cpio",
           "--cmdline", "console=ttyS0 quiet" + host_arguments(), "--mem", "512M", "--disk", "id=root,path=" + disk(),
           "--name", "debian"});
    (void)said_before("debian login: ");
    type("root\n");
    (void)said_before("root@debian:~# ");
    // Starts a shell that edits no lines, then removes the prompt, so that only output of commands
    // is on the terminal.
    type("exec sh\n");
    (void)said_before("# ");
    type("stty sane -echo; set +m; export SYSTEMD_COLORS=0; PS1=\n");
}

ClockLead LinuxDebian::clock_lead() {
    const double asked = host_time();
    const double guest_time = std::stod(output("date +%s.%N"));
    return {guest_time - host_time(), guest_time - asked};
}

void LinuxDebian::expect_work_goes_on() {
    for (const char* file : {"sums", "/run/loop", "/run/ticks"}) {
        (void)output(std::string("lines=$(wc -l <") + file + "); until [ $(wc -l <" + file +
                     ") -gt $((lines + 1)) ]; do sleep 0.2; done");
    }
}

std::string LinuxDebian::output(const std::string& command) {
    const std::string number = std::to_string(++commands_);
    // The typed line never contains the text that is waited for.
    type("echo 'BEGIN'-" + number + "; { " + command + "\n} 2>&1; echo 'END'-" + number + " $?.\n");
    (void)said_before("BEGIN-" + number);
    std::string said = said_before("END-" + number + " ");
    std::erase(said, '\r');
    EXPECT_EQ(said_before("."), "0") << command << "\n" << said;
    const std::size_t from = said.find_first_not_of('\n');
    return from == std::string::npos ? "" : said.substr(from, said.find_last_not_of('\n') + 1 - from);
}

TEST_F(LinuxDebian, GoesOnAfterARestore) {
    boot();
    // The work is a process that writes files, one that computes, and a timer of systemd (which
    // starts a unit at most 5 times in 10 seconds).
    (void)output("mkdir /srv/work; cd /srv/work");
    (void)output(
        "(i=0; while sleep 0.1; do i=$((i+1)); head -c 100000 /dev/urandom >$i; sha256sum $i >>sums; sync; done) & "
        "writer=$!");
    (void)output(
        "(nice -n 10; i=0; while :; do i=$((i+1)); [ $((i % 1000)) != 0 ] || echo $i; done) >/run/loop & loop=$!");
    (void)output(
        "systemd-run --quiet --unit=tick --on-active=3 --on-unit-active=3 --timer-property=AccuracySec=100ms sh -c "
        "'echo tick "
        ">>/run/ticks'");
    expect_work_goes_on();
    const ClockLead before = clock_lead();
    if (!slow()) {
        EXPECT_GT(before.most, -kRightTime);
        EXPECT_LT(before.least, kRightTime);
    }
    const std::string area = scratch_.file("area");
    const CommandResult snapshot = command({"snapshot", "debian", area, "--then", "stop"});
    ASSERT_EQ(snapshot.exit_code, 0) << snapshot.err;
    EXPECT_EQ(exit_code(), 0);
    const std::string disk_then = scratch_.file("disk-then");
    copy_disk(disk(), disk_then);
    std::this_thread::sleep_for(3s);  // shows a clock that stood still meanwhile

    start({"restore", area, "--clock", "continue", "--set", "disk.root.path=" + disk_then, "--name", "debian"});
    const ClockLead after = clock_lead();
    EXPECT_GT(after.most, before.least - kDrift);
    EXPECT_LT(after.least, before.most + kDrift);
    expect_work_goes_on();
    (void)output("systemctl stop tick.timer; kill $writer $loop");
    EXPECT_EQ(output("sha256sum --check --quiet sums"), "");
    EXPECT_EQ(output("systemctl --failed --no-legend --plain"), "");
    EXPECT_EQ(output("systemctl is-system-running"), "running");
    EXPECT_EQ(harmful(output("journalctl --boot --priority err --quiet --output cat --no-pager")), "");
    type("poweroff\n");
    EXPECT_EQ(exit_code(), 0) << screen();
    EXPECT_EQ(file_system_faults(disk_then), "");
}

}  // namespace
}  // namespace snapvm::test
