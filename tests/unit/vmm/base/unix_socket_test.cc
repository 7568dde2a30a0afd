// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/child.h"
#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm::test {
namespace {

class UnixSocket : public testing::Test {
protected:
    // A socket at the path. A dead process has left it as soon as the descriptor is closed.
    static UniqueFd bound(const std::string& path, int type = SOCK_STREAM) {
        UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const sockaddr_un address = need(unix_address(path));
        EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        return fd;
    }
    static UniqueFd listening(const std::string& path, int type = SOCK_STREAM, int backlog = 4) {
        UniqueFd fd = bound(path, type);
        EXPECT_EQ(::listen(fd.get(), backlog), 0);
        return fd;
    }
    [[nodiscard]] Result<Listener> open() const { return Listener::open(path_, "another path"); }
    // Opens the path, which must be refused, and leave the file that is there.
    void expect_refused(ErrorKind kind, const std::string& part) const {
        struct stat before{};
        struct stat after{};
        ASSERT_EQ(::lstat(path_.c_str(), &before), 0);
        const auto opened = open();
        EXPECT_TRUE(fails(opened, kind, path_ + part));
        EXPECT_TRUE(fails(opened, kind, "choose another path"));
        EXPECT_EQ(::lstat(path_.c_str(), &after), 0);
        EXPECT_TRUE(is_same_file(before, after));
    }

    ScratchFolder scratch_;
    std::string path_ = scratch_.file("s");
};

TEST_F(UnixSocket, ASocketThatAProcessHasIsNotTaken) {
    for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
        const UniqueFd live = listening(path_, type);
        expect_refused(ErrorKind::busy, " is in use: another process has a socket there");
        ::unlink(path_.c_str());
    }
    {
        const UniqueFd live = bound(path_, SOCK_DGRAM);
        expect_refused(ErrorKind::busy, " is in use: another process has a datagram socket there");
        ::unlink(path_.c_str());
    }
    const UniqueFd starting = bound(path_);  // its process has yet to call listen(2)
    expect_refused(ErrorKind::busy, " is in use");
}

TEST_F(UnixSocket, ASocketWhoseQueueIsFullIsNotTaken) {
    const UniqueFd live = listening(path_, SOCK_STREAM, 0);
    std::vector<UniqueFd> waiting;
    auto client = connect_unix(path_);
    for (; client; client = connect_unix(path_)) {
        waiting.push_back(*std::move(client));
    }
    ASSERT_EQ(client.error().kind(), ErrorKind::busy);
    expect_refused(ErrorKind::busy, " is in use");
}

TEST_F(UnixSocket, ASocketThatADeadProcessLeftIsReplaced) {
    for (const int type : {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM}) {
        bound(path_, type).reset();
        const Listener listener = need(open());
        EXPECT_TRUE(ok(connect_unix(path_)));
    }
    EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(UnixSocket, WhatIsNoSocketStays) {
    std::ofstream(path_) << "precious";
    expect_refused(ErrorKind::usage, " exists and is not a socket; move it away");
    std::filesystem::rename(path_, scratch_.file("file"));
    std::filesystem::create_symlink("file", path_);
    expect_refused(ErrorKind::usage, " is a symbolic link, and does not lead to a socket");
    std::filesystem::remove(path_);
    std::filesystem::create_symlink("nothing", path_);
    expect_refused(ErrorKind::usage, " is a symbolic link, and does not lead to a socket");
    std::filesystem::remove(path_);
    std::filesystem::create_directory(path_);
    expect_refused(ErrorKind::usage, " exists and is not a socket");
}

TEST_F(UnixSocket, ALinkIsReplacedIfNoProcessHasTheSocketBehindIt) {
    const std::string target = scratch_.file("api.sock");
    std::filesystem::create_symlink(target, path_);
    {
        const UniqueFd live = listening(target);
        expect_refused(ErrorKind::busy, " is in use");
    }
    EXPECT_TRUE(ok(open()));
    EXPECT_TRUE(std::filesystem::is_socket(target));  // the link was removed, and not what it led to
    std::filesystem::remove(target);
    std::filesystem::create_symlink(target, path_);  // of a machine whose run folder is gone
    EXPECT_TRUE(ok(open()));
}

TEST_F(UnixSocket, ADeadSocketOfAnotherUserStays) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can give a file to another user";
    }
    bound(path_).reset();
    ASSERT_EQ(::lchown(path_.c_str(), 12345, 12345), 0);
    expect_refused(ErrorKind::usage, " is a socket of another user");
}

TEST_F(UnixSocket, TheEndRemovesItsOwnSocketOnly) {
    {
        Listener listener = need(open());
        listener.close();
        EXPECT_FALSE(std::filesystem::exists(path_));
    }
    {
        const Listener listener = need(open());
        ::unlink(path_.c_str());
        std::ofstream(path_) << "precious";
    }
    EXPECT_TRUE(std::filesystem::is_regular_file(path_));
}

TEST(ConnectUnix, NeedsNoProc) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "chroot needs root";
    }
    const test::ScratchFolder scratch;
    const int code = test::in_child([&] {
        const auto listener = Listener::open(scratch.file("socket"), "");
        if (!listener || ::chroot(scratch.file("").c_str()) != 0 || ::chdir("/") != 0) {
            return 1;
        }
        const int folder = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        const auto connected = connect_unix(folder, "socket");
        if (!connected || ::accept(listener->fd(), nullptr, nullptr) < 0) {
            return 2;
        }
        return connect_unix(folder, "none") ? 3 : 0;
    });
    EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace snapvm::test
