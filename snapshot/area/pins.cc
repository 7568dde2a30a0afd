// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/pins.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>
#include <optional>
#include <sstream>
#include <thread>

#include "vmm/base/fd.h"
#include "vmm/base/opener.h"

namespace snapvm {
namespace {

constexpr std::size_t kMaxFdInfo = 1U << 20;
constexpr std::size_t kMostNamed = 3;
constexpr std::chrono::milliseconds kLastWrites{1000};
// How often a lock is tried while no visible process has it.
constexpr std::chrono::milliseconds kNextTry{2};

template <class Number>
std::optional<Number> number(std::string_view text) {
    Number value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

// Whether `line` describes an OFD lock that overlaps the range, as in "lock: 1: OFDLCK ADVISORY
// READ -1 fe:01:1234 8192 16383". Its last byte may be EOF. `wanted`: "READ", "WRITE", or empty for
// both.
bool is_lock_in(const std::string& line, std::string_view wanted, std::uint64_t offset, std::uint64_t size) {
    std::istringstream words(line);
    std::string tag, count, kind, strictness, mode, pid, inode, first, last;
    words >> tag >> count >> kind >> strictness >> mode >> pid >> inode >> first >> last;
    if (!words || tag != "lock:" || kind != "OFDLCK" || (!wanted.empty() && mode != wanted)) {
        return false;
    }
    const auto from = number<std::uint64_t>(first);
    const auto to = last == "EOF" ? std::numeric_limits<std::uint64_t>::max() : number<std::uint64_t>(last);
    return from && to && *from < offset + size && *to >= offset;
}

// Processes and descriptors may end meanwhile; then they have no lock.
std::vector<std::string> names_at(const std::string& folder, UniqueFd& fd) {
    auto opened = open_file(folder, O_RDONLY | O_DIRECTORY);
    if (!opened) {
        return {};
    }
    fd = *std::move(opened);
    return names_in(fd).value_or(std::vector<std::string>());
}

bool locks(const std::string& process, const struct stat& file, std::string_view mode, std::uint64_t offset,
           std::uint64_t size) {
    const std::string fdinfo = process + "/fdinfo/";
    UniqueFd folder;
    for (const std::string& name : names_at(process + "/fd", folder)) {
        struct stat info{};
        if (::fstatat(folder.get(), name.c_str(), &info, 0) != 0 || !is_same_file(info, file)) {
            continue;
        }
        const auto text = read_file(fdinfo + name, kMaxFdInfo);
        std::istringstream lines(text ? *text : "");
        for (std::string line; std::getline(lines, line);) {
            if (is_lock_in(line, mode, offset, size)) {
                return true;
            }
        }
    }
    return false;
}

std::vector<int> processes_with_lock(int fd, std::string_view mode, std::uint64_t offset, std::uint64_t size) {
    std::vector<int> pids;
    struct stat file{};
    if (::fstat(fd, &file) != 0) {
        return pids;
    }
    UniqueFd folder;
    for (const std::string& name : names_at("/proc", folder)) {
        const auto pid = number<int>(name);
        if (pid && locks("/proc/" + name, file, mode, offset, size)) {
            pids.push_back(*pid);
        }
    }
    std::ranges::sort(pids);
    return pids;
}

}  // namespace

std::vector<int> pinning_processes(int fd, std::uint64_t offset, std::uint64_t size) {
    return processes_with_lock(fd, "READ", offset, size);
}

Status lock_when_dead_writers_are_done(int fd, const AreaFile& file, bool exclusive, std::uint64_t offset,
                                       std::uint64_t size, std::string_view who) {
    const std::string_view in_the_way = exclusive ? "" : "WRITE";
    for (const auto until = std::chrono::steady_clock::now() + kLastWrites;;) {
        Status locked = lock_range(fd, exclusive, file.base + offset, size, file.name, who);
        const bool busy = !locked && locked.error().kind() == ErrorKind::busy;
        if (!busy || !processes_with_lock(fd, in_the_way, file.base + offset, size).empty() ||
            std::chrono::steady_clock::now() >= until) {
            return locked;
        }
        std::this_thread::sleep_for(kNextTry);
    }
}

Status lock_unpinned(int fd, const AreaFile& file, std::uint64_t offset, std::uint64_t size, std::string_view who,
                     const MachineNames& names) {
    Status locked = lock_when_dead_writers_are_done(fd, file, true, offset, size, who);
    if (locked || locked.error().kind() != ErrorKind::busy) {
        return locked;
    }
    const std::vector<int> pids = pinning_processes(fd, file.base + offset, size);
    if (pids.empty()) {
        return locked;  // the lock is a writer's, or that of another user's machine
    }
    std::string what = file.name + " is in use: " + std::string(who) + ": ";
    std::string advice = "stop it";
    for (std::size_t i = 0; i < std::min(pids.size(), kMostNamed); ++i) {
        const std::string name = names ? names(pids[i]) : std::string();
        const std::string pid = std::to_string(pids[i]);
        what.append(i == 0 ? "" : ", ");
        if (name.empty()) {
            what.append("process ").append(pid);
        } else {
            what.append(name).append(" (pid ").append(pid).append(")");
        }
        if (i == 0 && !name.empty()) {
            advice = "run snapvm detach " + name;
        }
    }
    if (pids.size() > kMostNamed) {
        what += " and " + std::to_string(pids.size() - kMostNamed) + " more";
    }
    return fail(ErrorKind::busy, std::move(what), advice + ", or use another area");
}

}  // namespace snapvm
