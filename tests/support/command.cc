// SPDX-License-Identifier: Apache-2.0
#include "tests/support/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <utility>

#include "tests/support/paths.h"
#include "vmm/base/fd.h"

extern char** environ;

namespace snapvm::test {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kLimit = std::chrono::seconds(60);

struct Pipe {
    UniqueFd reading;
    UniqueFd writing;

    bool open() {
        std::array<int, 2> ends{};
        if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
            return false;
        }
        reading = UniqueFd(ends[0]);
        writing = UniqueFd(ends[1]);
        return true;
    }
};

// Appends what can be read. Returns false at the end of the stream.
bool take(int fd, std::string& to) {
    std::array<char, 65536> chunk;
    const ssize_t got = ::read(fd, chunk.data(), chunk.size());
    if (got <= 0) {
        return false;
    }
    to.append(chunk.data(), static_cast<std::size_t>(got));
    return true;
}

// An ordinary user's PATH lacks the folders of administrators' programs, such as mkfs.ext4.
std::string place_of(const std::string& program) {
    const char* path = std::getenv("PATH");
    std::istringstream folders(std::string(path == nullptr ? "/usr/bin:/bin" : path) + ":/usr/sbin:/sbin");
    for (std::string folder; program.find('/') == std::string::npos && std::getline(folders, folder, ':');) {
        if (const std::string place = folder + "/" + program; ::access(place.c_str(), X_OK) == 0) {
            return place;
        }
    }
    return program;
}

}  // namespace

CommandResult snapvm_command(const std::vector<std::string>& arguments, const std::string& input) {
    std::vector<std::string> words = {snapvm_program()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    return run_program(std::move(words), input);
}

CommandResult run_program(std::vector<std::string> words, const std::string& input) {
    CommandResult result;
    words.front() = place_of(words.front());
    std::array<Pipe, 3> pipes;
    for (Pipe& pipe : pipes) {
        if (!pipe.open()) {
            result.err = std::string("no pipe to ") + words.front() + ": " + std::strerror(errno);
            return result;
        }
    }
    auto& [in, out, err] = pipes;
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in.reading.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, out.writing.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, err.writing.get(), STDERR_FILENO);
    pid_t pid = 0;
    const int spawned = ::posix_spawn(&pid, words.front().c_str(), &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    in.reading.reset();
    out.writing.reset();
    err.writing.reset();
    if (spawned != 0) {
        result.err = words.front() + " cannot be started";
        return result;
    }
    ::signal(SIGPIPE, SIG_IGN);
    (void)!::write(in.writing.get(), input.data(), input.size());
    in.writing.reset();

    const Clock::time_point limit = Clock::now() + kLimit;
    bool out_open = true;
    bool err_open = true;
    while (out_open || err_open) {
        std::array<pollfd, 2> fds = {
            {{out_open ? out.reading.get() : -1, POLLIN, 0}, {err_open ? err.reading.get() : -1, POLLIN, 0}}};
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(limit - Clock::now()).count();
        if (left <= 0 || ::poll(fds.data(), fds.size(), static_cast<int>(left)) == 0) {
            ::kill(pid, SIGKILL);
            break;
        }
        out_open = out_open && (fds[0].revents == 0 || take(out.reading.get(), result.out));
        err_open = err_open && (fds[1].revents == 0 || take(err.reading.get(), result.err));
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return result;
}

}  // namespace snapvm::test
