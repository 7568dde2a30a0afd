// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/fd.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>
#include <vector>

#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"

namespace snapvm {
namespace {

using test::fails;
using test::ok;

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
UniqueFd memory_file() { return UniqueFd(::memfd_create("fd-test", MFD_CLOEXEC)); }
std::string path_of(const UniqueFd& fd) { return "/proc/self/fd/" + std::to_string(fd.get()); }

TEST(UniqueFd, ClosesOnceAndOnlyWhatItOwns) {
    int number = -1;
    {
        const UniqueFd fd = memory_file();
        number = fd.get();
        EXPECT_TRUE(is_open(number));
    }
    EXPECT_FALSE(is_open(number));
    EXPECT_FALSE(UniqueFd().valid());
}

TEST(OpenAgain, OnlyTheSameFile) {
    const test::ScratchFolder scratch;
    const std::string path = scratch.file("file");
    const UniqueFd fd = std::move(*open_file(path, O_RDWR | O_CREAT, 0600));
    const UniqueFd again = open_again(path, O_RDONLY, fd.get());
    EXPECT_TRUE(again.valid());
    EXPECT_EQ(::fcntl(again.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
    ASSERT_EQ(::rename(path.c_str(), scratch.file("other").c_str()), 0);
    EXPECT_FALSE(open_again(path, O_RDONLY, fd.get()).valid());
    EXPECT_TRUE(open_file(path, O_RDWR | O_CREAT, 0600).has_value());
    EXPECT_FALSE(open_again(path, O_RDONLY, fd.get()).valid());
}

TEST(NamesIn, AllButTheFolderAndItsParent) {
    const test::ScratchFolder scratch;
    for (const char* name : {"one", ".two"}) {
        EXPECT_TRUE(open_file(scratch.file(name), O_RDWR | O_CREAT, 0600).has_value());
    }
    const UniqueFd folder = std::move(*open_file(scratch.path(), O_RDONLY | O_DIRECTORY));
    for (int time = 0; time < 2; ++time) {
        auto names = names_in(folder);
        ASSERT_TRUE(names.has_value());
        std::ranges::sort(*names);
        EXPECT_EQ(*names, (std::vector<std::string>{".two", "one"}));
    }
    EXPECT_TRUE(is_open(folder.get()));
    EXPECT_EQ(names_in(UniqueFd()).error().code(), EBADF);
    EXPECT_EQ(names_in(memory_file()).error().code(), ENOTDIR);
}

TEST(UniqueFd, MovesTheOwnership) {
    UniqueFd a = memory_file();
    const int number = a.get();
    UniqueFd b = std::move(a);
    EXPECT_EQ(b.get(), number);
    UniqueFd c = memory_file();
    const int replaced = c.get();
    c = std::move(b);
    EXPECT_FALSE(is_open(replaced));
    EXPECT_EQ(c.get(), number);
    UniqueFd& self = c;
    c = std::move(self);
    EXPECT_TRUE(is_open(number));
    const int released = c.release();
    EXPECT_FALSE(c.valid());
    EXPECT_TRUE(is_open(released));
    ::close(released);
}

TEST(OpenFile, SetsCloseOnExecAndNamesThePathItCannotOpen) {
    const auto fd = open_file("/dev/null", O_RDONLY);
    ASSERT_TRUE(ok(fd));
    EXPECT_NE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
    const auto missing = open_file("/no/such/file", O_RDONLY);
    EXPECT_TRUE(fails(missing, ErrorKind::system, "/no/such/file"));
    EXPECT_EQ(missing.error().code(), ENOENT);
}

TEST(Duplicate, SharesTheOpenFileAndClosesOnExec) {
    const UniqueFd fd = memory_file();
    const auto copy = duplicate(fd.get(), "file");
    ASSERT_TRUE(ok(copy));
    EXPECT_NE(::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, 0);
    ASSERT_EQ(::lseek(fd.get(), 100, SEEK_SET), 100);
    EXPECT_EQ(::lseek(copy->get(), 0, SEEK_CUR), 100);
    EXPECT_TRUE(fails(duplicate(-1, "nothing"), ErrorKind::system, "nothing"));
}

TEST(ReadExactlyAt, ReadsAllOrSaysWhereTheFileEnds) {
    const UniqueFd fd = memory_file();
    const std::string text = "0123456789";
    ASSERT_TRUE(ok(write_all_at(fd.get(), std::as_bytes(std::span(text)), 5, "file")));
    std::array<std::byte, 10> out{};
    EXPECT_TRUE(ok(read_exactly_at(fd.get(), out, 5, "file")));
    EXPECT_TRUE(std::ranges::equal(out, std::as_bytes(std::span(text))));
    EXPECT_TRUE(fails(read_exactly_at(fd.get(), out, 6, "file"), ErrorKind::invalid,
                      "truncated: it ends at byte 15, 1 byte short"));
    EXPECT_TRUE(fails(read_exactly_at(fd.get(), out, 15, "file"), ErrorKind::invalid, "10 bytes short"));
    EXPECT_TRUE(fails(read_exactly_at(fd.get(), out, 1'000'000, "file"), ErrorKind::invalid, "truncated"));
    EXPECT_TRUE(ok(read_exactly_at(fd.get(), {}, 15, "file")));
}

TEST(ReadExactlyAt, KeepsTheErrnoOfARealFailure) {
    std::array<std::byte, 1> out{};
    const auto result = read_exactly_at(-1, out, 0, "nothing");
    EXPECT_TRUE(fails(result, ErrorKind::system, "read nothing"));
    EXPECT_EQ(result.error().code(), EBADF);
}

TEST(WriteAllAt, SaysSoWhenTheFileMayNotGrow) {
    const UniqueFd fd(::memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(fd.get(), 10), 0);
    ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW), 0);
    const std::array<std::byte, 8192> data{};
    EXPECT_TRUE(fails(write_all_at(fd.get(), data, 0, "sealed"), ErrorKind::system, "write sealed"));
}

// A socket with a small buffer takes a large write in many pieces.
TEST(WriteAll, GoesOnAfterShortWrites) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    const UniqueFd from(ends[0]);
    UniqueFd to(ends[1]);
    const int small = 4096;
    ASSERT_EQ(::setsockopt(from.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    std::vector<std::byte> data(1 << 20);
    for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<std::byte>(i * 7 >> 3);
    }
    std::vector<std::byte> got;
    std::thread reader([&] {
        std::array<std::byte, 777> chunk;
        for (ssize_t size = 0; got.size() < data.size() && (size = ::read(to.get(), chunk.data(), chunk.size())) > 0;) {
            got.insert(got.end(), chunk.begin(), chunk.begin() + size);
        }
    });
    EXPECT_TRUE(ok(write_all(from.get(), data, "socket")));
    reader.join();
    EXPECT_TRUE(got == data);
}

TEST(WriteAll, ReportsAClosedReader) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    const UniqueFd from(ends[0]);
    ::close(ends[1]);
    const auto before = ::signal(SIGPIPE, SIG_IGN);
    const std::array<std::byte, 1> data{};
    const auto result = write_all(from.get(), data, "socket");
    ::signal(SIGPIPE, before);
    EXPECT_TRUE(fails(result, ErrorKind::system));
    EXPECT_EQ(result.error().code(), EPIPE);
}

TEST(ReadFile, TakesAtMostTheLimit) {
    const UniqueFd fd = memory_file();
    const std::string text(100'000, 'x');
    ASSERT_TRUE(ok(write_all_at(fd.get(), std::as_bytes(std::span(text)), 0, "file")));
    EXPECT_EQ(read_file(path_of(fd), text.size()).value(), text);
    EXPECT_TRUE(fails(read_file(path_of(fd), text.size() - 1), ErrorKind::invalid, "larger than 99999 bytes"));
    EXPECT_TRUE(fails(read_file(path_of(fd), 0), ErrorKind::invalid));
    EXPECT_EQ(read_file("/dev/null", 0).value(), "");
    // One without an end must not fill memory.
    EXPECT_TRUE(fails(read_file("/dev/zero", 1 << 20), ErrorKind::invalid));
}

TEST(ReadFile, RefusesADirectoryAndAMissingFile) {
    EXPECT_TRUE(fails(read_file("/", 100), ErrorKind::system, "/"));
    EXPECT_TRUE(fails(read_file("/no/such/file", 100), ErrorKind::system, "/no/such/file"));
}

}  // namespace
}  // namespace snapvm
