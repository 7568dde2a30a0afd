// SPDX-License-Identifier: Apache-2.0
#include "tests/support/traced_program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace snapvm::test {
namespace {

constexpr int kNoFolder = -1;
constexpr int kAddress = -2;

/// A path among the arguments of a system call. A call with two paths has two rows.
struct PathArgument {
    long number;
    std::string_view name;
    int folder;  ///< the argument that is its folder's descriptor, kNoFolder, or kAddress for a socket's address
    int path;    ///< the argument that is the path
};

constexpr std::array kPathArguments = std::to_array<PathArgument>({
    {SYS_open, "open", kNoFolder, 0},
    {SYS_creat, "creat", kNoFolder, 0},
    {SYS_openat, "openat", 0, 1},
    {SYS_openat2, "openat2", 0, 1},
    {SYS_stat, "stat", kNoFolder, 0},
    {SYS_lstat, "lstat", kNoFolder, 0},
    {SYS_newfstatat, "newfstatat", 0, 1},
    {SYS_statx, "statx", 0, 1},
    {SYS_statfs, "statfs", kNoFolder, 0},
    {SYS_access, "access", kNoFolder, 0},
    {SYS_faccessat, "faccessat", 0, 1},
    {SYS_faccessat2, "faccessat2", 0, 1},
    {SYS_readlink, "readlink", kNoFolder, 0},
    {SYS_readlinkat, "readlinkat", 0, 1},
    {SYS_chdir, "chdir", kNoFolder, 0},
    {SYS_mkdir, "mkdir", kNoFolder, 0},
    {SYS_mkdirat, "mkdirat", 0, 1},
    {SYS_rmdir, "rmdir", kNoFolder, 0},
    {SYS_unlink, "unlink", kNoFolder, 0},
    {SYS_unlinkat, "unlinkat", 0, 1},
    {SYS_rename, "rename", kNoFolder, 0},
    {SYS_rename, "rename", kNoFolder, 1},
    {SYS_renameat, "renameat", 0, 1},
    {SYS_renameat, "renameat", 2, 3},
    {SYS_renameat2, "renameat2", 0, 1},
    {SYS_renameat2, "renameat2", 2, 3},
    {SYS_link, "link", kNoFolder, 0},
    {SYS_link, "link", kNoFolder, 1},
    {SYS_linkat, "linkat", 0, 1},
    {SYS_linkat, "linkat", 2, 3},
    {SYS_symlink, "symlink", kNoFolder, 1},
    {SYS_symlinkat, "symlinkat", 1, 2},
    {SYS_truncate, "truncate", kNoFolder, 0},
    {SYS_chmod, "chmod", kNoFolder, 0},
    {SYS_fchmodat, "fchmodat", 0, 1},
    {SYS_chown, "chown", kNoFolder, 0},
    {SYS_lchown, "lchown", kNoFolder, 0},
    {SYS_fchownat, "fchownat", 0, 1},
    {SYS_mknod, "mknod", kNoFolder, 0},
    {SYS_mknodat, "mknodat", 0, 1},
    {SYS_execve, "execve", kNoFolder, 0},
    {SYS_execveat, "execveat", 0, 1},
    {SYS_bind, "bind", kAddress, 1},
    {SYS_connect, "connect", kAddress, 1},
});

// Reads memory of the program up to a NUL byte, at most a page.
std::string read_text(pid_t thread, std::uint64_t address) {
    std::string text;
    while (text.size() < 4096) {
        errno = 0;
        const long word = ::ptrace(PTRACE_PEEKDATA, thread, address + text.size(), nullptr);
        if (errno != 0) {
            break;
        }
        std::array<char, sizeof word> bytes;
        std::memcpy(bytes.data(), &word, sizeof word);
        const auto end = std::ranges::find(bytes, '\0');
        text.append(bytes.begin(), end);
        if (end != bytes.end()) {
            break;
        }
    }
    return text;
}

// Returns the path of a unix socket's address; nothing of another one.
std::string read_address(pid_t thread, std::uint64_t address) {
    const std::string family = read_text(thread, address);  // AF_UNIX is 1, then a NUL byte
    return family == std::string(1, AF_UNIX) ? read_text(thread, address + offsetof(sockaddr_un, sun_path)) : "";
}

}  // namespace

TracedProgram::TracedProgram(std::vector<std::string> words, std::string output)
    : words_(std::move(words)), output_(std::move(output)), tracer_([this] { trace(); }) {}

TracedProgram::~TracedProgram() {
    if (tracer_.joinable()) {
        while (program_ == 0) {
            std::this_thread::yield();
        }
        if (program_ > 0 && !over_) {
            ::kill(program_, SIGKILL);
        }
        tracer_.join();
    }
}

int TracedProgram::wait() {
    tracer_.join();
    return exit_code_;
}

std::vector<PathCall> TracedProgram::calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
}

void TracedProgram::trace() {
    std::vector<char*> argv;
    for (std::string& word : words_) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    const pid_t program = ::fork();
    if (program == 0) {
        ::setpgid(0, 0);
        const int out = ::open(output_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
        ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
        ::dup2(out, STDOUT_FILENO);
        ::dup2(out, STDERR_FILENO);
        if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) {
            ::_exit(126);
        }
        ::raise(SIGSTOP);
        ::execv(argv.front(), argv.data());
        ::_exit(127);
    }
    program_ = program;
    int status = 0;
    // Without a program, waitpid would take any child, and a kill would reach every process.
    if (program < 0 || ::waitpid(program, &status, __WALL) != program || !WIFSTOPPED(status)) {
        over_ = true;
        return;
    }
    seen_ = {program};
    ::ptrace(PTRACE_SETOPTIONS, program, nullptr,
             PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    ::ptrace(PTRACE_SYSCALL, program, nullptr, nullptr);
    // The threads are in the program's process group, and other children of the test are not.
    for (pid_t thread = 0; (thread = ::waitpid(-program, &status, __WALL)) > 0;) {
        if (WIFSTOPPED(status)) {
            stopped(thread, status);
        } else if (thread == program) {
            over_ = true;
            exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        }
    }
}

void TracedProgram::stopped(pid_t thread, int status) {
    const int signal = WSTOPSIG(status);
    const bool is_new = std::ranges::find(seen_, thread) == seen_.end();
    long deliver = 0;
    if (is_new) {
        seen_.push_back(thread);  // its first stop is the tracer's own SIGSTOP
    } else if (status >> 16 == PTRACE_EVENT_CLONE) {
        threads_ = true;
    } else if (signal == (SIGTRAP | 0x80)) {
        note(thread);
    } else if (status >> 16 == 0) {
        deliver = signal;
    }
    ::ptrace(PTRACE_SYSCALL, thread, nullptr, deliver);
}

void TracedProgram::note(pid_t thread) {
    __ptrace_syscall_info info{};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) <= 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY) {
        return;
    }
    for (const PathArgument& row : kPathArguments) {
        if (row.number != static_cast<long>(info.entry.nr)) {
            continue;
        }
        const std::uint64_t address = info.entry.args[row.path];
        const std::string path = row.folder == kAddress ? read_address(thread, address) : read_text(thread, address);
        const bool from_folder = row.folder >= 0 && static_cast<int>(info.entry.args[row.folder]) != AT_FDCWD;
        const bool named = row.folder == kAddress && path.starts_with("/proc/self/fd/");
        if (!path.empty()) {  // an empty one stands for the descriptor itself
            const std::lock_guard lock(mutex_);
            calls_.push_back({row.name, path, (from_folder && !path.starts_with('/')) || named, threads_});
        }
    }
}

}  // namespace snapvm::test
