// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/run_dir.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "tests/support/child.h"
#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::test {
namespace {

namespace fs = std::filesystem;

class RunDirTest : public testing::Test {
protected:
    // Every use of the run folder refuses it.
    void expect_refused(const std::string& part) const {
        EXPECT_TRUE(fails(NameClaim::take(dir_, "m"), ErrorKind::usage, part));
        EXPECT_TRUE(fails(dir_.check("m"), ErrorKind::usage, part));
        EXPECT_FALSE(dir_.is_running("m"));
        EXPECT_EQ(dir_.log("m"), "");
    }
    void write(const std::string& name, const std::string& text) const { std::ofstream(scratch_.file(name)) << text; }
    [[nodiscard]] std::string read(const std::string& name) const { return need(read_file(scratch_.file(name), 4096)); }

    ScratchFolder scratch_;
    RunDir dir_ = need(RunDir::find(scratch_.file("run")));
};

TEST_F(RunDirTest, AFolderThatALinkLeadsToIsRefused) {
    fs::create_directory(scratch_.file("elsewhere"));
    fs::create_directory_symlink("elsewhere", dir_.path());
    expect_refused("symbolic link");
    EXPECT_TRUE(fails(dir_.running(), ErrorKind::usage, "symbolic link"));
    EXPECT_TRUE(fs::is_empty(scratch_.file("elsewhere")));
    fs::remove(dir_.path());
    fs::create_directory(dir_.path());
    fs::create_directory_symlink("../elsewhere", dir_.folder_of("m"));
    expect_refused("symbolic link");
    EXPECT_TRUE(fs::is_empty(scratch_.file("elsewhere")));
}

TEST_F(RunDirTest, AFolderThatOthersCanChangeIsRefused) {
    fs::create_directory(dir_.path());
    ASSERT_EQ(::chmod(dir_.path().c_str(), 0770), 0);
    expect_refused("others than its owner may write to");
    ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
    fs::create_directory(dir_.folder_of("m"));
    ASSERT_EQ(::chmod(dir_.folder_of("m").c_str(), 0777), 0);
    expect_refused("others than its owner may write to");
}

TEST_F(RunDirTest, AFolderOfAnotherUserIsRefused) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can give a folder to another user";
    }
    fs::create_directory(dir_.path());
    ASSERT_EQ(::chown(dir_.path().c_str(), 12345, 12345), 0);
    expect_refused("belongs to another user (uid 12345)");
}

TEST_F(RunDirTest, NoLinkInAMachinesFolderIsFollowed) {
    write("victim", "precious");
    fs::create_directories(dir_.folder_of("m"));
    fs::create_symlink(scratch_.file("victim"), dir_.folder_of("m") + "/log");
    EXPECT_EQ(dir_.log("m"), "");
    {
        const NameClaim claim = need(NameClaim::take(dir_, "m"));
        fs::create_symlink(scratch_.file("victim"), dir_.folder_of("m") + "/log");
        EXPECT_FALSE(claim.open_log());
        fs::remove(dir_.folder_of("m") + "/log");
    }
    fs::create_directories(dir_.folder_of("m"));
    fs::create_symlink(scratch_.file("victim"), dir_.folder_of("m") + "/lock");
    EXPECT_TRUE(fails(NameClaim::take(dir_, "m"), ErrorKind::system, "/lock"));
    EXPECT_EQ(read("victim"), "precious");
}

TEST_F(RunDirTest, AnEndLeavesTheFolderOfTheNextOwnerOfTheName) {
    std::optional<NameClaim> first = need(NameClaim::take(dir_, "m"));
    EXPECT_TRUE(first->is_in_place());
    fs::remove_all(dir_.folder_of("m"));
    EXPECT_FALSE(first->is_in_place());
    EXPECT_FALSE(dir_.is_running("m"));
    std::optional<NameClaim> next = need(NameClaim::take(dir_, "m"));
    first.reset();
    EXPECT_TRUE(next->is_in_place());
    EXPECT_TRUE(dir_.is_running("m"));
    next.reset();
    EXPECT_FALSE(fs::exists(dir_.folder_of("m")));
}

TEST_F(RunDirTest, AnEndLeavesALockOfTheNextOwnerInTheSameFolder) {
    std::optional<NameClaim> first = need(NameClaim::take(dir_, "m"));
    fs::remove(dir_.folder_of("m") + "/lock");
    const NameClaim next = need(NameClaim::take(dir_, "m"));
    first.reset();
    EXPECT_TRUE(next.is_in_place());
}

TEST_F(RunDirTest, AnOutcomeIsKeptUntilItIsRemovedOrTheNameTakenAgain) {
    const auto end_with_outcome = [&] {
        const NameClaim claim = need(NameClaim::take(dir_, "m"));
        EXPECT_EQ(dir_.outcome("m"), "");
        need(claim.keep_outcome("3"));
        EXPECT_EQ(dir_.outcome("m"), "") << "it runs";
        EXPECT_TRUE(fails(dir_.remove("m"), ErrorKind::busy, "machine m runs; stop it first"));
    };
    end_with_outcome();
    EXPECT_EQ(dir_.outcome("m"), "3");
    EXPECT_EQ(need(dir_.ended()), std::vector<std::string>{"m"});
    EXPECT_TRUE(need(dir_.running()).empty());
    need(dir_.remove("m"));
    EXPECT_FALSE(fs::exists(dir_.folder_of("m")));
    EXPECT_TRUE(fails(dir_.remove("m"), ErrorKind::not_found, "there is no machine m"));
    end_with_outcome();
    EXPECT_EQ(need(NameClaim::take(dir_, "m")).name(), "m");
    EXPECT_EQ(dir_.outcome("m"), "");
    EXPECT_TRUE(need(dir_.ended()).empty());
}

TEST_F(RunDirTest, TheOldestThatHaveEndedAreRemoved) {
    const NameClaim runs = need(NameClaim::take(dir_, "a"));
    time_t ended = 1;
    for (const char* name : {"d", "c", "b"}) {
        need(need(NameClaim::take(dir_, name)).keep_outcome("0"));
        const std::array<timespec, 2> times = {{{ended, 0}, {ended, 0}}};
        ASSERT_EQ(::utimensat(AT_FDCWD, dir_.folder_of(name).c_str(), times.data(), 0), 0);
        ++ended;
    }
    dir_.remove_oldest(3);
    EXPECT_EQ(need(dir_.ended()), (std::vector<std::string>{"b", "c", "d"}));
    dir_.remove_oldest(2);
    EXPECT_EQ(need(dir_.ended()), (std::vector<std::string>{"b", "c"}));
    dir_.remove_oldest(0);
    EXPECT_TRUE(need(dir_.ended()).empty());
    EXPECT_EQ(need(dir_.running()), std::vector<std::string>{"a"});
}

// A process that ends has no API socket any more.
TEST_F(RunDirTest, AProcessWithoutASocketIsKilled) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        const auto claim = NameClaim::take(dir_, "m");
        (void)!::write(pipe[1], claim ? "y" : "n", 1);
        ::pause();
        ::_exit(0);
    }
    char taken = 0;
    ASSERT_EQ(::read(pipe[0], &taken, 1), 1);
    ASSERT_EQ(taken, 'y');
    dir_.remove_left_by(child, "m");
    EXPECT_TRUE(dir_.is_running("m")) << "it runs";
    EXPECT_TRUE(ok(dir_.kill("m")));
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    EXPECT_TRUE(fails(dir_.kill("m"), ErrorKind::not_found));
    dir_.remove_left_by(child + 1, "m");
    EXPECT_TRUE(fs::exists(dir_.folder_of("m"))) << "that is another's";
    dir_.remove_left_by(child, "m");
    EXPECT_FALSE(fs::exists(dir_.folder_of("m")));
    ::close(pipe[0]);
    ::close(pipe[1]);
}

TEST_F(RunDirTest, WithoutDescriptorsAMachineIsNotTakenForEnded) {
    const NameClaim claim = need(NameClaim::take(dir_, "m"));
    const int code = in_child([&] {
        const int next = ::dup(STDIN_FILENO);  // the lowest number that is free
        ::close(next);
        for (int room = 0; room < 3; ++room) {  // for the run folder, the machine's, its lock
            rlimit limit{};
            ::getrlimit(RLIMIT_NOFILE, &limit);
            limit.rlim_cur = static_cast<rlim_t>(next + room);
            if (::setrlimit(RLIMIT_NOFILE, &limit) != 0 || !dir_.is_running("m")) {
                return 1 + room;
            }
        }
        return 0;
    });
    EXPECT_EQ(code, 0);
}

// A user may name any folder as the run folder.
TEST_F(RunDirTest, AFolderThatIsNoMachinesIsNeitherListedNorRemoved) {
    fs::create_directories(dir_.folder_of("photos"));
    write("run/photos/log", "precious");
    write("run/photos/cat", "precious");
    fs::create_directories(dir_.folder_of("empty"));
    EXPECT_TRUE(need(dir_.ended()).empty());
    EXPECT_TRUE(fails(dir_.remove("photos"), ErrorKind::usage, "is not what a machine has left"));
    EXPECT_TRUE(fails(dir_.remove("empty"), ErrorKind::usage));
    EXPECT_EQ(read("run/photos/log"), "precious");
}

TEST_F(RunDirTest, ALinkIsRefusedWithASlashBehindItToo) {
    fs::create_directory(scratch_.file("elsewhere"));
    fs::create_directory_symlink("elsewhere", dir_.path());
    const RunDir dir = need(RunDir::find(dir_.path() + "//"));
    EXPECT_EQ(dir.path(), dir_.path());
    EXPECT_TRUE(fails(dir.check("m"), ErrorKind::usage, "symbolic link"));
}

TEST_F(RunDirTest, IsFoundByOptionAndByVariables) {
    const auto path_with = [](const char* run_dir, const char* runtime) {
        ::setenv("SNAPVM_RUN_DIR", run_dir, 1);
        ::setenv("XDG_RUNTIME_DIR", runtime, 1);
        const std::string found = need(RunDir::find("")).path();
        EXPECT_EQ(need(RunDir::find("/given")).path(), "/given");
        ::unsetenv("SNAPVM_RUN_DIR");
        return found;
    };
    const char* const before = ::getenv("XDG_RUNTIME_DIR");
    const std::string runtime = before == nullptr ? "" : before;
    const bool root = ::geteuid() == 0;
    EXPECT_EQ(path_with("/from/variable", "/xdg"), "/from/variable");
    EXPECT_EQ(path_with("", "/xdg"), root ? "/run/snapvm" : "/xdg/snapvm");
    EXPECT_EQ(path_with("", ""), root ? "/run/snapvm" : "/tmp/snapvm-" + std::to_string(::geteuid()));
    ::setenv("XDG_RUNTIME_DIR", runtime.c_str(), 1);
}

}  // namespace
}  // namespace snapvm::test
