// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/run_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <thread>

#include "vmm/base/try.h"

namespace snapvm::cli {
namespace {

constexpr const char* kSocketName = "/api.sock";
constexpr const char* kLockName = "/lock";
constexpr const char* kLogName = "/log";
constexpr std::size_t kMaxName = 64;
constexpr std::size_t kMaxLock = 32;

bool is_name(const std::string& name) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
    };
    return !name.empty() && name.size() <= kMaxName && name[0] != '.' && name[0] != '-' && std::ranges::all_of(name, allowed);
}

Status make_folder(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
        return fail(Error::system("mkdir", path, errno, "choose another place with --run-dir"));
    }
    return {};
}

// Whether somebody holds the lock; asking takes it for a moment, which a starting machine rides out by trying again.
bool is_locked(const std::string& folder) {
    const UniqueFd fd(::open((folder + kLockName).c_str(), O_RDWR | O_CLOEXEC));
    return fd.valid() && ::flock(fd.get(), LOCK_SH | LOCK_NB) != 0;
}

}  // namespace

Result<RunDir> RunDir::find(const std::string& override_path) {
    if (!override_path.empty()) {
        return RunDir(override_path);
    }
    if (::geteuid() == 0) {
        return RunDir("/run/snapvm");
    }
    const char* base = std::getenv("XDG_RUNTIME_DIR");  // NOLINT(concurrency-mt-unsafe): before any thread
    if (base == nullptr || *base == '\0') {
        return fail(ErrorKind::usage, "XDG_RUNTIME_DIR is not set", "set it, or say where with --run-dir");
    }
    return RunDir(std::string(base) + "/snapvm");
}

Result<std::vector<std::string>> RunDir::running() const {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(path_, error)) {
        const std::string name = entry.path().filename().string();
        if (is_name(name) && is_locked(folder_of(name))) {
            names.push_back(name);
        }
    }
    if (error && error != std::errc::no_such_file_or_directory) {
        return fail(Error::system("opendir", path_, error.value()));
    }
    std::ranges::sort(names);
    return names;
}

bool RunDir::is_running(const std::string& name) const { return is_name(name) && is_locked(folder_of(name)); }

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
    const auto names = running();
    const std::string wanted = std::to_string(pid);
    for (const std::string& name : names ? *names : std::vector<std::string>()) {
        if (const auto owner = read_file(folder_of(name) + kLockName, kMaxLock); owner && *owner == wanted) {
            return name;
        }
    }
    return {};
}

Result<NameClaim> NameClaim::take(const RunDir& dir, const std::string& name) {
    if (!is_name(name)) {
        return fail(ErrorKind::usage, "\"" + name + "\" is no name for a machine",
                    "use 1 to 64 letters, digits, '_', '.' and '-', beginning with none of the last two");
    }
    TRY(make_folder(dir.path()));
    const std::string folder = dir.folder_of(name);
    constexpr int kTries = 20;
    for (int i = 0; i < kTries; ++i) {
        TRY(make_folder(folder));
        UniqueFd lock = TRY(open_file(folder + kLockName, O_RDWR | O_CREAT, 0600));
        if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
            ::usleep(500);  // somebody may only be asking whether we run
            continue;
        }
        // An owner that ends removes the folder; then what we hold is the lock of a file that nobody finds any more.
        struct stat ours{};
        struct stat found{};
        if (::fstat(lock.get(), &ours) == 0 && ::stat((folder + kLockName).c_str(), &found) == 0 && ours.st_ino == found.st_ino) {
            const std::string pid = std::to_string(::getpid());
            if (::ftruncate(lock.get(), 0) != 0) {
                return fail(Error::system("ftruncate", folder + kLockName, errno));
            }
            ::unlink((folder + kLogName).c_str());  // the last one's
            TRY(write_all_at(lock.get(), std::as_bytes(std::span(pid)), 0, folder + kLockName));
            return NameClaim(name, folder, std::move(lock));
        }
    }
    return fail(ErrorKind::busy, "a machine named " + name + " runs already", "choose another --name, or: snapvm stop " + name);
}

NameClaim::~NameClaim() {
    if (!lock_.valid()) {
        return;
    }
    struct stat log{};
    if (::stat((folder_ + kLogName).c_str(), &log) == 0 && log.st_size == 0) {
        ::unlink((folder_ + kLogName).c_str());
    }
    for (const char* file : {kSocketName, kLockName}) {
        ::unlink((folder_ + file).c_str());
    }
    ::rmdir(folder_.c_str());
}

}  // namespace snapvm::cli
