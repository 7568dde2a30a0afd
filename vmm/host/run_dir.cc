// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/run_dir.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include "vmm/base/absolute_path.h"
#include "vmm/base/opener.h"
#include "vmm/base/own_folder.h"
#include "vmm/base/try.h"
#include "vmm/base/unix_socket.h"

namespace snapvm {
namespace {

constexpr const char* kSocket = "api.sock";
constexpr const char* kLock = "lock";
constexpr const char* kLog = "log";
constexpr const char* kOutcome = NameClaim::kOutcome;
constexpr const char* kElsewhere = "choose another folder with --run-dir or SNAPVM_RUN_DIR";
constexpr std::size_t kMaxName = 64;
constexpr std::size_t kMaxLock = 32;
constexpr std::size_t kMaxLog = 64U << 10;
constexpr std::size_t kMaxOutcome = 64U << 10;

bool is_name(const std::string& name) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
               c == '-';
    };
    return !name.empty() && name.size() <= kMaxName && name[0] != '.' && name[0] != '-' &&
           std::ranges::all_of(name, allowed);
}

// Returns an empty string for a variable that is not set.
std::string variable(const char* name) {
    const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before any thread
    return value == nullptr ? std::string() : value;
}

// Opens a file in a machine's folder. A symbolic link is refused, and a FIFO is not waited for.
Result<UniqueFd> open_in(const UniqueFd& folder, const char* name, int flags, unsigned mode = 0) {
    return opener().open(folder.get(), name, flags | O_NOFOLLOW | O_NONBLOCK, mode);
}

// Returns whether the name in the folder is that of the opened file or folder.
bool leads_to(const UniqueFd& folder, const char* name, const UniqueFd& opened) {
    struct stat ours{};
    struct stat found{};
    return ::fstat(opened.get(), &ours) == 0 && ::fstatat(folder.get(), name, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
           is_same_file(ours, found);
}

// Returns at most `limit` bytes of a file; none if there is no such file.
std::string text_in(const UniqueFd& folder, const char* name, std::size_t limit) {
    std::string text(limit, '\0');
    const auto file = open_in(folder, name, O_RDONLY);
    const ssize_t got = file ? ::pread(file->get(), text.data(), text.size(), 0) : 0;
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
}

// Returns whether a file may be there although it could not be opened: this process, or the host,
// lacks descriptors or memory.
bool is_want(const Error& error) { return error.code() == EMFILE || error.code() == ENFILE || error.code() == ENOMEM; }

// Returns whether the lock is held, or it cannot be told. The test takes the lock for a moment; a
// machine that starts meanwhile tries again.
bool is_locked(const UniqueFd& folder) {
    const auto lock = open_in(folder, kLock, O_RDWR);
    return lock ? ::flock(lock->get(), LOCK_SH | LOCK_NB) != 0 : is_want(lock.error());
}

// What a folder in the run folder holds. A run folder can be any folder of the user's, with others
// in it.
enum class Contents : std::uint8_t { nothing, a_machines, other };

Contents contents_of(const UniqueFd& folder) {
    constexpr std::array<std::string_view, 4> kFiles = {kSocket, kLock, kLog, kOutcome};
    const auto names = names_in(folder);
    const bool only_ours = names && std::ranges::all_of(*names, [&](const std::string& name) {
                               return std::ranges::find(kFiles, name) != kFiles.end();
                           });
    if (!only_ours) {
        return Contents::other;
    }
    return names->empty() ? Contents::nothing : Contents::a_machines;
}

// Returns whether a process has the machine's lock open.
bool has_lock(int pid, const UniqueFd& folder) {
    const auto descriptors = open_file("/proc/" + std::to_string(pid) + "/fd", O_RDONLY | O_DIRECTORY);
    const auto names = descriptors ? names_in(*descriptors) : fail(descriptors.error());
    struct stat lock{};
    if (!names || ::fstatat(folder.get(), kLock, &lock, AT_SYMLINK_NOFOLLOW) != 0) {
        return false;
    }
    return std::ranges::any_of(*names, [&](const std::string& name) {
        struct stat opened{};
        return ::fstatat(descriptors->get(), name.c_str(), &opened, 0) == 0 && is_same_file(opened, lock);
    });
}

// Returns the number of the process that runs a machine; 0 if there is none, or it is in a PID
// namespace that this process does not see.
int process_of(const UniqueFd& folder) {
    // The kernel answers for the listener at the API socket, also if that hangs or is stopped.
    const auto socket = connect_unix(folder.get(), kSocket);
    ucred peer{};
    socklen_t size = sizeof peer;
    if (socket && ::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
        return peer.pid;
    }
    // Its queue is full, or it has closed the socket because it ends.
    const int pid = std::atoi(text_in(folder, kLock, kMaxLock).c_str());
    return has_lock(pid, folder) ? pid : 0;
}

Status check_name(const std::string& name) {
    if (is_name(name)) {
        return {};
    }
    return fail(ErrorKind::usage, "\"" + name + "\" is not a name for a machine",
                "use 1 to 64 letters, digits, '_', '.' and '-', and begin with neither '.' nor '-'");
}

}  // namespace

Result<RunDir> RunDir::find(const std::string& override_path) {
    std::string chosen = TRY(absolute_path(override_path.empty() ? variable("SNAPVM_RUN_DIR") : override_path));
    while (chosen.size() > 1 && chosen.ends_with('/')) {
        chosen.pop_back();  // a path that ends so leads through a symbolic link
    }
    if (!chosen.empty()) {
        return RunDir(std::move(chosen));
    }
    if (::geteuid() == 0) {
        return RunDir("/run/snapvm");
    }
    const std::string base = variable("XDG_RUNTIME_DIR");
    return RunDir(base.empty() ? "/tmp/snapvm-" + std::to_string(::geteuid()) : base + "/snapvm");
}

Result<std::vector<std::string>> RunDir::names_where(const std::function<bool(const UniqueFd&)>& wanted) const {
    std::vector<std::string> names;
    const auto all = open_own_folder(AT_FDCWD, path_, path_, kElsewhere);
    if (!all && all.error().code() == ENOENT) {
        return names;
    }
    if (!all) {
        return fail(all.error());
    }
    auto found = names_in(*all);
    if (!found) {
        return fail(Error::system("readdir", path_, found.error().code()));
    }
    for (std::string& name : *found) {
        if (!is_name(name)) {
            continue;
        }
        const auto folder = open_own_folder(all->get(), name, folder_of(name), kElsewhere);
        if (!folder && is_want(folder.error())) {
            return fail(folder.error());
        }
        if (folder && wanted(*folder)) {
            names.push_back(std::move(name));
        }
    }
    std::ranges::sort(names, [](const std::string& a, const std::string& b) {
        return ::strverscmp(a.c_str(), b.c_str()) < 0;  // clone-2 before clone-10
    });
    return names;
}

Result<UniqueFd> RunDir::open_folder_of(const std::string& name) const {
    TRY(check_name(name));
    const UniqueFd all = TRY(open_own_folder(AT_FDCWD, path_, path_, kElsewhere));
    return open_own_folder(all.get(), name, folder_of(name), kElsewhere);
}

Status RunDir::check(const std::string& name) const {
    const auto folder = open_folder_of(name);
    return folder || folder.error().code() == ENOENT ? Status() : fail(folder.error());
}

std::string RunDir::log(const std::string& name) const {
    const auto folder = open_folder_of(name);
    return folder ? text_in(*folder, kLog, kMaxLog) : std::string();
}

std::string RunDir::outcome(const std::string& name) const {
    const auto folder = open_folder_of(name);
    return folder && !is_locked(*folder) ? text_in(*folder, kOutcome, kMaxOutcome) : std::string();
}

Result<std::vector<std::string>> RunDir::ended() const {
    return names_where(
        [](const UniqueFd& folder) { return !is_locked(folder) && contents_of(folder) == Contents::a_machines; });
}

Status RunDir::remove(const std::string& name) const {
    const auto folder = open_folder_of(name);
    if (!folder && folder.error().code() == ENOENT) {
        return fail(ErrorKind::not_found, "there is no machine " + name, "see snapvm ps -a");
    }
    if (!folder) {
        return fail(folder.error());
    }
    if (is_locked(*folder)) {
        return fail(ErrorKind::busy, "machine " + name + " runs", "stop it first: snapvm stop " + name);
    }
    if (contents_of(*folder) != Contents::a_machines) {
        return fail(ErrorKind::usage, folder_of(name) + " is not what a machine has left",
                    "remove it yourself if you mean it");
    }
    // A claim begins with the removal of what the last machine of the name has left, and ends with
    // that of the folder.
    (void)TRY(NameClaim::take(*this, name));
    return {};
}

void RunDir::remove_oldest(std::size_t keep) const {
    const auto names = ended();
    if (!names || names->size() <= keep) {
        return;
    }
    using Time = std::pair<std::int64_t, std::int64_t>;
    std::vector<std::pair<Time, std::string>> by_age;
    for (const std::string& name : *names) {
        struct stat info{};
        if (const auto folder = open_folder_of(name); folder && ::fstat(folder->get(), &info) == 0) {
            by_age.emplace_back(Time(info.st_mtim.tv_sec, info.st_mtim.tv_nsec), name);
        }
    }
    std::ranges::sort(by_age);
    for (std::size_t i = 0; i + keep < by_age.size(); ++i) {
        (void)remove(by_age[i].second);
    }
}

void RunDir::remove_left_by(int pid, const std::string& name) const {
    const auto folder = open_folder_of(name);
    if (folder && text_in(*folder, kLock, kMaxLock) == std::to_string(pid)) {
        (void)remove(name);
    }
}

Result<std::vector<std::string>> RunDir::running() const { return names_where(is_locked); }

bool RunDir::is_running(const std::string& name) const {
    const auto folder = open_folder_of(name);
    return folder ? is_locked(*folder) : is_want(folder.error());
}

Status RunDir::kill(const std::string& name) const {
    const auto folder = open_folder_of(name);
    const int pid = folder ? process_of(*folder) : 0;
    const UniqueFd process(pid > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)) : -1);
    // If the machine is still this process', the number has been that of the opened process all the
    // time.
    if (!process.valid() || !is_locked(*folder) || process_of(*folder) != pid) {
        return fail(ErrorKind::not_found, "no machine " + name + " runs", "see snapvm ps");
    }
    if (::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) != 0) {
        return fail(Error::system("pidfd_send_signal", name, errno));
    }
    return {};
}

Status RunDir::wait_gone(const std::string& name, std::chrono::steady_clock::time_point deadline) const {
    while (is_running(name)) {
        if (std::chrono::steady_clock::now() >= deadline) {
            return fail(ErrorKind::system, "machine " + name + " has stopped, but its process has not ended");
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return {};
}

std::string RunDir::machine_of(int pid) const {
    const std::string wanted = std::to_string(pid);
    const auto names = names_where([&](const UniqueFd& folder) {  // the lock holds the number
        return is_locked(folder) && text_in(folder, kLock, kMaxLock) == wanted;
    });
    return names && !names->empty() ? names->front() : std::string();
}

Result<NameClaim> NameClaim::take(const RunDir& dir, const std::string& name) {
    TRY(check_name(name));
    UniqueFd all = TRY(make_own_folder(AT_FDCWD, dir.path(), dir.path(), kElsewhere));
    const std::string path = dir.folder_of(name);
    constexpr int kTries = 20;
    for (int i = 0; i < kTries; ++i) {
        auto made = make_own_folder(all.get(), name, path, kElsewhere);
        if (made && contents_of(*made) == Contents::other) {
            return fail(ErrorKind::usage, path + " has files in it that no machine has left",
                        "choose another --name or --run-dir");
        }
        auto opened = made ? open_in(*made, kLock, O_RDWR | O_CREAT, 0600) : fail(made.error());
        if (!opened && opened.error().code() == ENOENT) {
            continue;  // an owner that ends has just removed the folder
        }
        if (!made || !opened) {
            return made ? fail(Error::system("open", path + "/" + kLock, opened.error().code(), "remove it"))
                        : fail(made.error());
        }
        UniqueFd folder = *std::move(made);
        UniqueFd lock = *std::move(opened);
        if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
            ::usleep(500);  // a test by is_locked may hold the lock for a moment
            continue;
        }
        // An owner that ends removes the folder. The lock taken here then belongs to a file that no
        // path leads to, and is of no use.
        if (!leads_to(folder, kLock, lock) || !leads_to(all, name.c_str(), folder)) {
            continue;
        }
        NameClaim claim(name, path, std::move(all), std::move(folder), std::move(lock));
        // systemd-tmpfiles leaves a folder alone that is locked (tmpfiles.d(5)).
        ::flock(claim.folder_fd_.get(), LOCK_SH | LOCK_NB);
        const std::string pid = std::to_string(::getpid());
        if (::ftruncate(claim.lock_.get(), 0) != 0) {
            return fail(Error::system("ftruncate", path + "/" + kLock, errno));
        }
        for (const char* left : {kLog, kOutcome}) {  // by the last machine with this name
            ::unlinkat(claim.folder_fd_.get(), left, 0);
        }
        TRY(write_all_at(claim.lock_.get(), std::as_bytes(std::span(pid)), 0, path + "/" + kLock));
        return claim;
    }
    return fail(ErrorKind::busy, "machine " + name + " runs already",
                "choose another --name, or stop it: snapvm stop " + name);
}

bool NameClaim::is_in_place() const {
    return leads_to(all_, name_.c_str(), folder_fd_) && leads_to(folder_fd_, kLock, lock_);
}

bool NameClaim::has_socket() const {
    struct stat socket{};
    return ::fstatat(folder_fd_.get(), kSocket, &socket, AT_SYMLINK_NOFOLLOW) == 0;
}

Result<UniqueFd> NameClaim::open_log() const { return open_in(folder_fd_, kLog, O_WRONLY | O_CREAT | O_APPEND, 0600); }

Status NameClaim::keep_outcome(const std::string& text) const {
    const UniqueFd file = TRY(open_in(folder_fd_, kOutcome, O_WRONLY | O_CREAT | O_EXCL, 0600));
    return write_all(file.get(), std::as_bytes(std::span(text)), folder_ + "/" + kOutcome);
}

// If the folder was removed meanwhile, the name may be another machine's by now, whose folder
// stays.
NameClaim::~NameClaim() {
    if (!lock_.valid() || !is_in_place()) {
        return;
    }
    struct stat log{};
    if (::fstatat(folder_fd_.get(), kLog, &log, AT_SYMLINK_NOFOLLOW) == 0 && log.st_size == 0) {
        ::unlinkat(folder_fd_.get(), kLog, 0);
    }
    for (const char* file : {kSocket, kLock}) {
        ::unlinkat(folder_fd_.get(), file, 0);
    }
    ::unlinkat(all_.get(), name_.c_str(), AT_REMOVEDIR);
}

}  // namespace snapvm
