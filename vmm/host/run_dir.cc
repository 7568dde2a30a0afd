// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/run_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <thread>

#include "vmm/base/opener.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr const char* kSocketName = "/api.sock";
constexpr const char* kLockName = "/lock";
constexpr const char* kLogName = "/log";
constexpr std::size_t kMaxName = 64;
constexpr std::size_t kMaxLock = 32;

bool is_name(const std::string& name) {
    const auto allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
               c == '-';
    };
    return !name.empty() && name.size() <= kMaxName && name[0] != '.' && name[0] != '-' &&
           std::ranges::all_of(name, allowed);
}

Status make_folder(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
        return fail(Error::system("mkdir", path, errno, "choose another folder with --run-dir"));
    }
    return {};
}

// Returns whether the lock is held. The test takes the lock for a moment; a machine that starts
// meanwhile tries again.
bool is_locked(const std::string& folder) {
    const auto fd = open_file(folder + kLockName, O_RDWR);
    return fd && ::flock(fd->get(), LOCK_SH | LOCK_NB) != 0;
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
        return fail(ErrorKind::usage, "XDG_RUNTIME_DIR is not set", "set it, or give a folder with --run-dir");
    }
    return RunDir(std::string(base) + "/snapvm");
}

Result<std::vector<std::string>> RunDir::running() const {
    std::vector<std::string> names;
    const auto folder = open_file(path_, O_RDONLY | O_DIRECTORY);
    if (!folder && folder.error().code() == ENOENT) {
        return names;
    }
    if (!folder) {
        return fail(Error::system("opendir", path_, folder.error().code()));
    }
    auto found = names_in(*folder);
    if (!found) {
        return fail(Error::system("readdir", path_, found.error().code()));
    }
    for (std::string& name : *found) {
        if (is_name(name) && is_locked(folder_of(name))) {
            names.push_back(std::move(name));
        }
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
        return fail(ErrorKind::usage, "\"" + name + "\" is not a name for a machine",
                    "use 1 to 64 letters, digits, '_', '.' and '-', and begin with neither '.' nor '-'");
    }
    auto opened = open_file(dir.path(), O_PATH | O_DIRECTORY);
    if (!opened) {
        TRY(make_folder(dir.path()));
        opened = open_file(dir.path(), O_PATH | O_DIRECTORY);
    }
    UniqueFd all = TRY(std::move(opened));
    const std::string folder = dir.folder_of(name);
    constexpr int kTries = 20;
    for (int i = 0; i < kTries; ++i) {
        TRY(make_folder(folder));
        UniqueFd lock = TRY(open_file(folder + kLockName, O_RDWR | O_CREAT, 0600));
        if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
            ::usleep(500);  // a test by is_locked may hold the lock for a moment
            continue;
        }
        // An owner that ends removes the folder. The lock taken here then belongs to a file that no
        // path leads to, and is of no use.
        struct stat ours{};
        struct stat found{};
        if (::fstat(lock.get(), &ours) == 0 && ::stat((folder + kLockName).c_str(), &found) == 0 &&
            is_same_file(ours, found)) {
            const std::string pid = std::to_string(::getpid());
            if (::ftruncate(lock.get(), 0) != 0) {
                return fail(Error::system("ftruncate", folder + kLockName, errno));
            }
            ::unlink((folder + kLogName).c_str());  // of the last machine with this name
            TRY(write_all_at(lock.get(), std::as_bytes(std::span(pid)), 0, folder + kLockName));
            return NameClaim(name, folder, std::move(all), std::move(lock));
        }
    }
    return fail(ErrorKind::busy, "machine " + name + " runs already",
                "choose another --name, or stop it: snapvm stop " + name);
}

NameClaim::~NameClaim() {
    if (!lock_.valid()) {
        return;
    }
    struct stat log{};
    if (::fstatat(all_.get(), (name_ + kLogName).c_str(), &log, 0) == 0 && log.st_size == 0) {
        ::unlinkat(all_.get(), (name_ + kLogName).c_str(), 0);
    }
    for (const char* file : {kSocketName, kLockName}) {
        ::unlinkat(all_.get(), (name_ + file).c_str(), 0);
    }
    ::unlinkat(all_.get(), name_.c_str(), AT_REMOVEDIR);
}

}  // namespace snapvm
