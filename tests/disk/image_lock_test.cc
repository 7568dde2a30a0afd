// SPDX-License-Identifier: Apache-2.0
// Locks on disk images: between users of our own, and with QEMU's programs as the other party.
#include "devices/disk/image_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "devices/disk/disk_file.h"
#include "tests/support/command.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"
#include "tests/support/result_matchers.h"
#include "tests/support/scratch_folder.h"
#include "vmm/base/fd.h"
#include "vmm/base/file_lock.h"
#include "vmm/base/opener.h"

namespace snapvm {
namespace {

using test::CommandResult;
using test::eventually;
using test::fails;
using test::make_image;
using test::need;
using test::ok;
using test::run_program;

constexpr std::uint64_t kSize = 1ULL << 20;

Status lock(const UniqueFd& fd, ImageAccess access) { return lock_image(fd.get(), access, "it", "taken", "wait"); }

class ImageLockTest : public testing::Test {
protected:
    ImageLockTest() { make_file(path_); }
    static void make_file(const std::string& path) {
        const UniqueFd fd = need(open_file(path, O_RDWR | O_CREAT, 0600));
        EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(kSize)), 0);
    }
    [[nodiscard]] UniqueFd opened(int flags = O_RDONLY) const { return need(open_file(path_, flags)); }

    const test::ScratchFolder scratch_;
    const std::string path_ = scratch_.file("image");
};

TEST_F(ImageLockTest, OneWriterOrManyReaders) {
    UniqueFd first = opened();
    const UniqueFd second = opened();
    const UniqueFd third = opened();
    ASSERT_TRUE(ok(lock(first, kImageWriter)));
    EXPECT_TRUE(fails(lock(second, kImageWriter), ErrorKind::busy, "it is in use: taken; wait"));
    EXPECT_TRUE(fails(lock(second, kImageReader), ErrorKind::busy, "it is in use: taken; wait"));
    first.reset();
    ASSERT_TRUE(ok(lock(second, kImageReader)));
    EXPECT_TRUE(ok(lock(third, kImageReader)));
    const UniqueFd fourth = opened();
    EXPECT_TRUE(fails(lock(fourth, kImageWriter), ErrorKind::busy));
}

TEST_F(ImageLockTest, WhoIsRefusedLeavesNoLock) {
    UniqueFd writer = opened();
    ASSERT_TRUE(ok(lock(writer, kImageWriter)));
    const UniqueFd refused = opened();
    EXPECT_TRUE(fails(lock(refused, kImageReader), ErrorKind::busy));
    EXPECT_TRUE(fails(lock(refused, kImageWriter), ErrorKind::busy));
    writer.reset();
    // Both kinds of locks of the one that was refused would be in this one's way.
    EXPECT_TRUE(ok(test_range(opened().get(), true, 0, 0, "it", "left", "")));
}

TEST_F(ImageLockTest, OfTwoAtTheSameTimeNeverBothAreLetIn) {
    std::atomic<int> inside = 0, most = 0, taken = 0;
    const auto come_and_go = [&] {
        for (int i = 0; i < 3'000; ++i) {
            const UniqueFd fd = opened();
            if (lock(fd, kImageWriter)) {
                const int now = ++inside;
                most = std::max<int>(most, now);
                ++taken;
                std::this_thread::yield();
                --inside;
            }
        }
    };
    std::thread other(come_and_go);
    come_and_go();
    other.join();
    EXPECT_EQ(most, 1);
    EXPECT_GT(taken, 0);
}

TEST_F(ImageLockTest, AWriterBecomesAReader) {
    UniqueFd writer = opened();
    ASSERT_TRUE(ok(lock(writer, kImageWriter)));
    ASSERT_TRUE(ok(share_image(writer.get(), "it")));
    UniqueFd reader = opened();
    EXPECT_TRUE(ok(lock(reader, kImageReader)));
    const UniqueFd another = opened();
    EXPECT_TRUE(fails(lock(another, kImageWriter), ErrorKind::busy));
    reader.reset();
    EXPECT_TRUE(fails(lock(another, kImageWriter), ErrorKind::busy)) << "the first one is a reader";
    EXPECT_TRUE(ok(share_image(writer.get(), "it"))) << "a reader's locks stay as they are";
    EXPECT_TRUE(fails(lock(another, kImageWriter), ErrorKind::busy));
    writer.reset();
    EXPECT_TRUE(ok(lock(another, kImageWriter)));
}

TEST_F(ImageLockTest, NoWriterGetsInWhileOneBecomesAReader) {
    std::atomic<bool> end = false;
    std::atomic<int> got_in = 0, refused = 0;
    // The image is held by a writer or, from then on, a reader for as long as the other one tries.
    UniqueFd held = opened();
    ASSERT_TRUE(ok(lock(held, kImageWriter)));
    std::thread other([&] {
        const UniqueFd fd = opened();
        while (!end) {
            (lock(fd, kImageWriter) ? got_in : refused)++;
        }
    });
    for (int i = 0; i < 2'000; ++i) {
        UniqueFd next = opened();
        EXPECT_TRUE(ok(share_image(held.get(), "it")));
        // The one who tries has, for a moment, the locks of a writer.
        while (!lock(next, kImageReader)) {
        }
        held = std::move(next);
    }
    EXPECT_TRUE(eventually([&] { return refused > 0; }));
    end = true;
    other.join();
    EXPECT_EQ(got_in, 0);
}

// An older snapvm, and some other programs, lock the file from its first byte to its end.
TEST_F(ImageLockTest, ALockOnTheWholeFileConflicts) {
    const auto lock_whole = [](const UniqueFd& fd, bool exclusive) {
        return lock_range(fd.get(), exclusive, 0, 0, "it", "taken", "wait");
    };
    for (const bool exclusive : {true, false}) {
        const UniqueFd whole = opened(O_RDWR);
        ASSERT_TRUE(ok(lock_whole(whole, exclusive)));
        EXPECT_TRUE(fails(lock(opened(), kImageWriter), ErrorKind::busy)) << exclusive;
        EXPECT_TRUE(fails(lock(opened(), kImageReader), ErrorKind::busy)) << exclusive;
    }
    for (const ImageAccess access : {kImageReader, kImageWriter}) {
        const UniqueFd ours = opened();
        ASSERT_TRUE(ok(lock(ours, access)));
        EXPECT_TRUE(fails(lock_whole(opened(O_RDWR), true), ErrorKind::busy));
    }
}

TEST_F(ImageLockTest, ADiskThatIsFrozenBecomesABaseForMany) {
    DiskFile layer = need(DiskFile::open("root", path_, {}));
    const DiskOptions reading{.read_only = true};
    EXPECT_TRUE(fails(DiskFile::open("root", path_, reading), ErrorKind::busy, "another machine writes it"));
    ASSERT_TRUE(ok(layer.share()));
    const DiskFile one = need(DiskFile::open("root", path_, reading));
    const DiskFile two = need(DiskFile::open("root", path_, reading));
    EXPECT_TRUE(fails(DiskFile::open("root", path_, {}), ErrorKind::busy, "another machine has it"));
}

/// An image that qemu-io has open.
class OpenInQemu {
public:
    OpenInQemu(const std::string& path, const std::string& options) {
        const std::string output = path + ".output";
        input_ = ::popen(("exec qemu-io " + options + " '" + path + "' >'" + output + "' 2>&1").c_str(), "we");
        EXPECT_NE(input_, nullptr);
        EXPECT_GE(std::fputs("read 0 512\n", input_), 0);
        EXPECT_EQ(std::fflush(input_), 0);
        std::string said;
        const auto has_read = [&] {
            said = read_file(output, 65536).value_or("");
            return said.find("read 512/512 bytes") != std::string::npos;
        };
        EXPECT_TRUE(eventually(has_read)) << said;
    }
    ~OpenInQemu() { EXPECT_EQ(::pclose(input_), 0); }
    OpenInQemu(const OpenInQemu&) = delete;
    OpenInQemu& operator=(const OpenInQemu&) = delete;

private:
    std::FILE* input_ = nullptr;
};

class ImageLockAndQemu : public ImageLockTest {
protected:
    void SetUp() override {
        SNAPVM_REQUIRE_QEMU_IMG();
        make_image(qcow2_, kSize);
        make_file(other_);
    }
    static Result<DiskFile> open(const std::string& path, bool read_only) {
        return DiskFile::open("root", path, {.read_only = read_only});
    }
    static CommandResult qemu_img(std::vector<std::string> words) {
        words.insert(words.begin(), "qemu-img");
        return run_program(std::move(words));
    }
    static void expect_refused(const std::vector<std::string>& words, const std::string& permission) {
        const CommandResult result = qemu_img(words);
        EXPECT_NE(result.exit_code, 0) << words.front();
        EXPECT_NE(result.err.find("Failed to get " + permission + " lock"), std::string::npos) << result.err;
    }
    static void expect_done(const std::vector<std::string>& words) {
        const CommandResult result = qemu_img(words);
        EXPECT_EQ(result.exit_code, 0) << words.front() << ": " << result.err;
    }
    /// What changes an image, in each of QEMU's ways.
    void expect_unwritable(const std::string& path, const std::string& format) {
        const std::string before = need(read_file(path, 2 * kSize));
        expect_refused({"create", "-f", format, path, "1M"}, "\"write\"");
        expect_refused({"resize", "-f", format, path, "2M"}, "\"write\"");
        expect_refused({"convert", "-O", format, "-f", "raw", other_, path}, "\"write\"");
        EXPECT_TRUE(need(read_file(path, 2 * kSize)) == before);
    }

    const std::string qcow2_ = scratch_.file("qcow2");
    const std::string other_ = scratch_.file("other");
};

TEST_F(ImageLockAndQemu, AnImageThatQemuWritesIsRefused) {
    for (const auto& [path, format] : {std::pair(path_, "-f raw"), {qcow2_, "-f qcow2"}}) {
        const OpenInQemu writer(path, format);
        EXPECT_TRUE(fails(open(path, false), ErrorKind::busy, "another machine has it")) << path;
        EXPECT_TRUE(fails(open(path, true), ErrorKind::busy, "another machine writes it")) << path;
    }
}

TEST_F(ImageLockAndQemu, AnImageThatQemuReadsCanOnlyBeRead) {
    const OpenInQemu reader(qcow2_, "-r -f qcow2");
    EXPECT_TRUE(ok(open(qcow2_, true)));
    EXPECT_TRUE(fails(open(qcow2_, false), ErrorKind::busy, "another machine has it"));
}

TEST_F(ImageLockAndQemu, QemuReadsAnImageThatIsRead) {
    for (const auto& [path, format] : {std::pair(path_, "raw"), {qcow2_, "qcow2"}}) {
        const DiskFile reader = need(open(path, true));
        expect_done({"info", path});
        expect_done({"compare", "-f", format, "-F", format, path, path});
        expect_unwritable(path, format);
    }
    const DiskFile reader = need(open(qcow2_, true));
    expect_done({"check", qcow2_});
}

TEST_F(ImageLockAndQemu, QemuReadsAnImageThatIsWrittenOnlyIfItIsTold) {
    const DiskFile writer = need(open(qcow2_, false));
    for (const std::string command : {"info", "check"}) {
        expect_refused({command, qcow2_}, "shared \"write\"");
        expect_done({command, "-U", qcow2_});
    }
    expect_refused({"compare", qcow2_, qcow2_}, "shared \"write\"");
    expect_done({"compare", "-U", qcow2_, qcow2_});
    expect_unwritable(qcow2_, "qcow2");
    const DiskFile raw = need(open(path_, false));
    expect_refused({"convert", "-f", "raw", "-O", "raw", path_, scratch_.file("copy")}, "shared \"write\"");
    // QEMU has it so for its own writers: this one needs no -U for a raw image.
    expect_done({"info", "-f", "raw", path_});
    expect_unwritable(path_, "raw");
}

TEST_F(ImageLockAndQemu, QemuReadsALayerThatIsFrozen) {
    DiskFile layer = need(open(qcow2_, false));
    ASSERT_TRUE(ok(layer.share()));
    expect_done({"check", qcow2_});
    expect_done({"create", "-q", "-f", "qcow2", "-b", qcow2_, "-F", "qcow2", scratch_.file("overlay")});
    const OpenInQemu overlay(scratch_.file("overlay"), "-f qcow2");
    expect_refused({"resize", qcow2_, "2M"}, "\"write\"");
}

}  // namespace
}  // namespace snapvm
