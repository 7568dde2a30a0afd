// SPDX-License-Identifier: Apache-2.0
// PID 1: mounts, prints READY, keeps a shell on each console, and ends the machine when told to. If
// the host's KVM emulates kernel mode, a fork and exec takes 100 ms. READY waits for none, which no
// init made of scripts could do.
#include "guest-images/linux/tool/tool.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <csignal>
#include <initializer_list>

namespace tool {
namespace {

constexpr char ready[] = "SNAPVM LINUX READY\n";

struct Shell {
    const char* terminal;
    bool echo;  // without it the shell has no line editor, and a test reads back only answers
    pid_t pid;
};
Shell shells[] = {{"/dev/ttyS0", true, 0}, {"/dev/hvc0", false, 0}};

// Reports on the console what failed; init goes on.
void complain(const char* what) { std::fprintf(stderr, "init: %s: %s\n", what, std::strerror(errno)); }

void mount_one(const char* type, const char* where) {
    if (mount(type, where, type, 0, nullptr) != 0) complain(where);
}

// Loads the modules of a stock kernel in the order of their names. The image numbers them by their
// dependencies.
void load_modules() {
    dirent** names = nullptr;
    const int count =
        scandir("/modules", &names, [](const dirent* entry) -> int { return entry->d_name[0] != '.'; }, alphasort);
    for (int i = 0; i < count; i++) {
        char path[300];
        std::snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        const int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0 || syscall(SYS_finit_module, file, "", 0) != 0) complain(path);
        if (file >= 0) close(file);
        std::free(names[i]);
    }
    std::free(names);
}

// Runs in the child. The terminal becomes the shell's controlling terminal.
[[noreturn]] void become_shell(const Shell& shell, int terminal) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    setsid();
    check(ioctl(terminal, TIOCSCTTY, 1), "controlling terminal");
    termios settings{};
    check(tcgetattr(terminal, &settings), "tcgetattr");
    settings.c_lflag |= ICANON | ISIG | IEXTEN | ECHO | ECHOE | ECHOK;
    if (!shell.echo) settings.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    check(tcsetattr(terminal, TCSANOW, &settings), "tcsetattr");
    for (int descriptor = 0; descriptor < 3; descriptor++) check(dup2(terminal, descriptor), "dup2");
    static char name[] = "sh";
    static char path[] = "PATH=/bin";
    static char home[] = "HOME=/";
    static char term[] = "TERM=vt100";
    static char prompt[] = "PS1=guest# ";
    char* arguments[] = {name, nullptr};
    char* environment[] = {path, home, term, prompt, nullptr};
    execve("/bin/sh", arguments, environment);
    die("/bin/sh");
}

// Does nothing if the terminal does not exist yet.
void start(Shell& shell) {
    const int terminal = open(shell.terminal, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0) return;
    shell.pid = fork();
    if (shell.pid == 0) become_shell(shell, terminal);
    close(terminal);
    if (shell.pid < 0) {
        complain("fork");
        shell.pid = 0;
    }
}

void start_missing() {
    for (Shell& shell : shells)
        if (shell.pid == 0) start(shell);
}

bool all_started() {
    for (const Shell& shell : shells)
        if (shell.pid == 0) return false;
    return true;
}

void reap() {
    for (pid_t pid; (pid = waitpid(-1, nullptr, WNOHANG)) > 0;)
        for (Shell& shell : shells)
            if (shell.pid == pid) {
                shell.pid = 0;
                start(shell);
            }
}

// Leaves mounted disks clean. The newest mount goes first.
void unmount_all() {
    static char lines[64][256];
    int count = 0;
    std::FILE* mounts = std::fopen("/proc/mounts", "re");
    if (mounts == nullptr) return;
    while (count < 64 && std::fgets(lines[count], sizeof lines[count], mounts) != nullptr) count++;
    std::fclose(mounts);
    while (count-- > 0) {
        std::strtok(lines[count], " ");
        const char* where = std::strtok(nullptr, " ");
        if (where != nullptr && std::strcmp(where, "/") != 0) umount2(where, 0);
    }
}

// Returns the reboot() command of the signal by which busybox' reboot, halt and poweroff tell init,
// 0 for others.
int order_of(int signal) {
    switch (signal) {
        case SIGTERM: return RB_AUTOBOOT;
        case SIGUSR1: return RB_HALT_SYSTEM;
        case SIGUSR2: return RB_POWER_OFF;
        default: return 0;
    }
}

[[noreturn]] void end(int order, const sigset_t& signals) {
    // Programs have time to end by themselves, until two seconds pass in which none ends. SIGHUP is
    // for interactive shells, which ignore SIGTERM.
    kill(-1, SIGTERM);
    kill(-1, SIGHUP);
    kill(-1, SIGCONT);
    const timespec limit{2, 0};
    while (waitpid(-1, nullptr, WNOHANG) >= 0)
        if (sigtimedwait(&signals, nullptr, &limit) < 0) break;
    kill(-1, SIGKILL);
    while (waitpid(-1, nullptr, 0) > 0) continue;
    sync();
    unmount_all();
    reboot(order);
    complain("reboot");
    for (;;) pause();
}

bool power_pressed(int events) {
    input_event event{};
    while (read(events, &event, sizeof event) == sizeof event)
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) return true;
    return false;
}

}  // namespace

int run_init() {
    mount_one("proc", "/proc");
    mount_one("sysfs", "/sys");
    mount_one("devtmpfs", "/dev");
    load_modules();
    if (write(STDOUT_FILENO, ready, sizeof ready - 1) < 0) complain("console");
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGCHLD, SIGTERM, SIGUSR1, SIGUSR2}) sigaddset(&signals, signal);
    check(sigprocmask(SIG_BLOCK, &signals, nullptr), "sigprocmask");
    const int pending = check(signalfd(-1, &signals, SFD_CLOEXEC), "signalfd");
    reboot(RB_DISABLE_CAD);
    start_missing();
    // A virtio console with ports comes up when its host has answered, and no event says when it
    // can be opened. So init tries for ten seconds.
    int looks = 50;
    // There is one input device at most, the power button. poll() ignores a descriptor of -1.
    pollfd sources[] = {{pending, POLLIN, 0},
                        {open("/dev/input/event0", O_RDONLY | O_NONBLOCK | O_CLOEXEC), POLLIN, 0}};
    for (;;) {
        const int events = poll(sources, 2, looks == 0 || all_started() ? -1 : 200);
        if (events < 0 && errno != EINTR) die("poll");
        if (events == 0) {
            looks--;
            start_missing();
        }
        if (sources[1].revents != 0 && power_pressed(sources[1].fd)) end(RB_POWER_OFF, signals);
        if ((sources[0].revents & POLLIN) == 0) continue;
        signalfd_siginfo signal{};
        if (read(pending, &signal, sizeof signal) != sizeof signal) die("signalfd");
        if (const int order = order_of(static_cast<int>(signal.ssi_signo)); order != 0) end(order, signals);
        reap();
    }
}

}  // namespace tool
