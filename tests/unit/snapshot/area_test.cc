// SPDX-License-Identifier: Apache-2.0
// Areas as files: they are made, refused, locked, pinned and inspected.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <thread>
#include <tuple>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/support/child.h"
#include "tests/unit/snapshot/fixture.h"
#include "vmm/base/file_lock.h"

namespace snapvm::test {
namespace {

class Area : public SnapshotTest {
protected:
    static AreaShape shape(const FakeMachine& machine) { return {machine.config().blocks(), machine.config().cpus}; }
    void expect_refused(const AreaPath& path, ErrorKind kind, std::string_view part) {
        FakeMachine machine;
        const auto report = write_snapshot(machine, path, {});
        ASSERT_FALSE(report.has_value());
        EXPECT_EQ(report.error().kind(), kind) << report.error().message();
        EXPECT_NE(report.error().message().find(part), std::string::npos) << report.error().message();
        EXPECT_EQ(report.error().message().find('\n'), std::string::npos);
        EXPECT_EQ(machine.thaws, 0) << "refused before the freeze";
    }
};

// A descriptor that is passed into this socket belongs to no process.
class SocketPair {
public:
    SocketPair() {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends), 0);
        ends_ = {UniqueFd(ends[0]), UniqueFd(ends[1])};
    }
    void pass(UniqueFd fd) {
        char byte = 0;
        iovec data{&byte, 1};
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> room{};
        msghdr message{};
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = room.data();
        message.msg_controllen = room.size();
        cmsghdr* head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        const int raw = fd.get();
        std::memcpy(CMSG_DATA(head), &raw, sizeof raw);
        EXPECT_EQ(::sendmsg(ends_[0].get(), &message, 0), 1);
    }
    void close() { ends_ = {}; }

private:
    std::array<UniqueFd, 2> ends_;
};

TEST(AreaPath, IsParsed) {
    const auto parsed = [](std::string_view text) { return *AreaPath::parse(text); };
    EXPECT_EQ(parsed("/a/b"), (AreaPath{"/a/b", 0}));
    EXPECT_EQ(parsed("/a/b@4096"), (AreaPath{"/a/b", 4096}));
    EXPECT_EQ(parsed("x@8K"), (AreaPath{"x", 8192}));
    EXPECT_EQ(parsed("x@1g"), (AreaPath{"x", 1ULL << 30}));
    EXPECT_EQ(parsed("me@home"), (AreaPath{"me@home", 0}));
    EXPECT_EQ(parsed("a@2@0"), (AreaPath{"a@2", 0}));
    for (const char* text : {"a", "a@home", "a@2@0", "a@8K", "a@2@4K"}) {
        EXPECT_EQ(parsed(text).text(), text) << "it can be given again";
    }
    for (const char* text : {"a@2", "backup@2024-01"}) {
        const std::string message = AreaPath::parse(text).error().message();
        EXPECT_NE(message.find("for a file of that name write " + std::string(text) + "@0"), std::string::npos)
            << message;
    }
    EXPECT_EQ(parsed("me@home@4M").text(), "me@home@4M");
    EXPECT_EQ(parsed("x@"), (AreaPath{"x@", 0}));
    for (const char* bad : {"", "@4096", "x@1", "x@4095", "x@4Q", "x@99999999999999999999", "x@16777216T"}) {
        const auto result = AreaPath::parse(bad);
        EXPECT_FALSE(result.has_value()) << bad;
        EXPECT_EQ(result.has_value() ? ErrorKind::usage : result.error().kind(), ErrorKind::usage);
    }
}

TEST(Layout, IsFixedAndAligned) {
    MachineConfig config;
    config.memory_bytes = 5ULL << 30;
    config.cpus = 4;
    for (const std::uint32_t slots : {1U, 2U}) {
        const AreaLayout layout = *AreaLayout::of(config.blocks(), config.cpus, slots);
        EXPECT_EQ(layout.size, *area_size(config, slots));
        for (const SlotLayout& slot : layout.slots) {
            EXPECT_EQ(slot.data_offsets[0] % kHugePageSize, 0U);
            EXPECT_EQ(slot.data_offsets[1] % kHugePageSize, 0U);
            EXPECT_LE(slot.offset + slot.size, layout.size);
        }
    }
    // FORMAT.md has this size to the byte. A change of it needs a new version.
    config.memory_bytes = 256ULL << 20;
    config.cpus = 1;
    EXPECT_EQ(*area_size(config, 1), (2ULL << 20) + (256ULL << 20) + (68ULL << 10));
    EXPECT_EQ(AreaLayout::of(config.blocks(), 1, 3).error().kind(), ErrorKind::usage);
    EXPECT_EQ(AreaLayout::of({}, 1, 1).error().kind(), ErrorKind::usage);
}

TEST_F(Area, WhatIsNoAreaIsRefused) {
    expect_refused({folder_.string(), 0}, ErrorKind::system, "directory");
    expect_refused(area("missing/area"), ErrorKind::system, "No such file");
    std::ofstream(area("text").path) << "precious";
    ASSERT_EQ(::chmod(area("text").path.c_str(), 0600), 0);
    expect_refused(area("text"), ErrorKind::invalid, "holds data");
    EXPECT_EQ(*read_file(area("text").path, 100), "precious");
    ASSERT_EQ(::mkfifo(area("fifo").path.c_str(), 0600), 0);
    expect_refused(area("fifo"), ErrorKind::invalid, "neither a file nor a block device");

    EXPECT_EQ(open_snapshot(area("none")).error().code(), ENOENT);
    EXPECT_FALSE(std::filesystem::exists(area("none").path));
    EXPECT_NE(open_snapshot({folder_.string(), 0}).error().message().find("directory"), std::string::npos);
    EXPECT_EQ(open_snapshot(area("text")).error().kind(), ErrorKind::invalid);
    std::ofstream(area("empty").path).close();
    ASSERT_EQ(::chmod(area("empty").path.c_str(), 0600), 0);
    EXPECT_EQ(open_snapshot(area("empty")).error().kind(), ErrorKind::invalid);
    EXPECT_EQ(inspect_area(area("text")).error().kind(), ErrorKind::invalid);
    FakeMachine machine;
    ASSERT_OK(write_snapshot(machine, area("empty"), {}));
    ASSERT_OK(open_snapshot(area("empty")));
}

TEST_F(Area, AFileThatOthersCanReadIsRefused) {
    FakeMachine machine;
    std::ofstream(area().path).close();
    for (const mode_t mode : {0644U, 0640U, 0606U}) {
        ASSERT_EQ(::chmod(area().path.c_str(), mode), 0);
        expect_refused(area(), ErrorKind::usage, "others than its owner have rights to");
        EXPECT_EQ(create_area(area(), shape(machine), {.force = true}).error().kind(), ErrorKind::usage);
    }
    ASSERT_EQ(::chmod(area().path.c_str(), 0700), 0);
    ASSERT_OK(write_snapshot(machine, area(), {}));
}

TEST_F(Area, AFileOfAnotherUserIsRefused) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can give a file to another user";
    }
    std::ofstream(area().path).close();
    ASSERT_EQ(::chmod(area().path.c_str(), 0600), 0);
    ASSERT_EQ(::chown(area().path.c_str(), 12345, 12345), 0);
    expect_refused(area(), ErrorKind::usage, "belongs to another user (uid 12345)");
    FakeMachine machine;
    EXPECT_EQ(create_area(area(), shape(machine), {.force = true}).error().kind(), ErrorKind::usage);
    EXPECT_EQ(std::filesystem::file_size(area().path), 0U);
}

TEST_F(Area, ALinkThatLeadsNowhereIsRefused) {
    const std::string target = area("target").path;
    std::filesystem::create_symlink(target, area().path);
    expect_refused(area(), ErrorKind::usage, "is a symbolic link that leads to no file");
    FakeMachine machine;
    EXPECT_EQ(create_area(area(), shape(machine), {}).error().kind(), ErrorKind::usage);
    EXPECT_FALSE(std::filesystem::exists(target));
    ASSERT_OK(create_area(area("target"), shape(machine), {}));
    ASSERT_OK(write_snapshot(machine, area(), {}));
}

TEST_F(Area, OfAnotherSizeIsRefusedAndStays) {
    FakeMachine small;
    FakeMachine large(16ULL << 20);
    small.fill(BlockId::ram_low, 1, 1);
    ASSERT_OK(write_snapshot(small, area(), {}));
    const auto report = write_snapshot(large, area(), {});
    ASSERT_FALSE(report.has_value());
    EXPECT_NE(report.error().message().find("this machine needs"), std::string::npos);
    ASSERT_OK(open_snapshot(area()));
}

TEST_F(Area, CreateMakesRefusesAndForces) {
    FakeMachine machine;
    const auto size = create_area(area(), shape(machine), {.slots = 2});
    ASSERT_OK(size);
    EXPECT_EQ(*size, *area_size(machine.config(), 2));
    const auto nothing_yet = open_snapshot(area());
    EXPECT_EQ(nothing_yet.error().kind(), ErrorKind::incomplete);
    EXPECT_NE(nothing_yet.error().message().find("no snapshot yet"), std::string::npos);
    machine.fill(BlockId::ram_low, 9, 1);
    const auto report = write_snapshot(machine, area(), {});
    ASSERT_OK(report);
    EXPECT_EQ(report->area_bytes, *size) << "the area's own slots count";
    EXPECT_EQ(create_area(area(), shape(machine), {}).error().kind(), ErrorKind::usage);
    {
        const auto restored = open_snapshot(area());
        ASSERT_OK(restored);
        EXPECT_EQ(create_area(area(), shape(machine), {.force = true}).error().kind(), ErrorKind::busy);
    }
    ASSERT_OK(create_area(area(), shape(machine), {.force = true}));
    EXPECT_EQ(open_snapshot(area()).error().kind(), ErrorKind::incomplete);
    std::ofstream(area("text").path) << "precious";
    ASSERT_EQ(::chmod(area("text").path.c_str(), 0600), 0);
    EXPECT_EQ(create_area(area("text"), shape(machine), {}).error().kind(), ErrorKind::usage);
    EXPECT_EQ(*read_file(area("text").path, 100), "precious");
}

TEST_F(Area, CreationTellsHowFarItIs) {
    FakeMachine machine;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> calls;
    CreateOptions options;
    options.progress = [&](std::uint64_t done, std::uint64_t total) { calls.emplace_back(done, total); };
    const auto size = create_area(area(), shape(machine), options);
    ASSERT_OK(size);
    ASSERT_FALSE(calls.empty());
    EXPECT_EQ(calls.back(), std::pair(*size, *size));
}

TEST_F(Area, PinnedIsNotOverwritten) {
    FakeMachine machine;
    machine.fill(BlockId::ram_low, 1, 1);
    ASSERT_OK(write_snapshot(machine, area(), {}));
    auto restored = open_snapshot(area());
    ASSERT_OK(restored);
    ASSERT_OK(open_snapshot(area()));  // several may map it
    expect_refused(area(), ErrorKind::busy, "maps the snapshot");
    // One block is enough to hold it.
    auto memory = std::make_optional(std::move(restored->memory));
    auto last = std::make_optional(std::move(memory->blocks()[1]));
    memory.reset();
    expect_refused(area(), ErrorKind::busy, "maps the snapshot");
    last.reset();
    ASSERT_OK(write_snapshot(machine, area(), {}));
}

TEST_F(Area, PinHoldsAgainstAnotherProcess) {
    FakeMachine machine;
    ASSERT_OK(write_snapshot(machine, area(), {}));
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const auto restored = open_snapshot(area());
        (void)!::write(ready[1], restored ? "1" : "0", 1);
        ::pause();
        ::_exit(0);
    }
    char answer = 0;
    ASSERT_EQ(::read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, '1');
    expect_refused(area(), ErrorKind::busy, "maps the snapshot in it: process " + std::to_string(child));
    WriteOptions options;
    options.names = [&](int pid) { return pid == child ? "clone" : ""; };
    const Error error = write_snapshot(machine, area(), options).error();
    EXPECT_NE(error.message().find("clone (pid " + std::to_string(child) + ")"), std::string::npos) << error.message();
    EXPECT_NE(error.advice().find("clone"), std::string::npos) << error.message();
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(ready[0]);
    ::close(ready[1]);
    ASSERT_OK(write_snapshot(machine, area(), {}));
}

TEST_F(Area, TwoSlotsWriteAroundPins) {
    FakeMachine machine;
    const auto write = [&](std::uint64_t generation) {
        machine.fill(BlockId::ram_low, 1, generation);
        return write_snapshot(machine, area(), with_slots(2));
    };
    ASSERT_EQ(write(1)->slot, 0U);
    ASSERT_EQ(write(2)->slot, 1U);
    ASSERT_EQ(write(3)->slot, 0U);
    auto newest = open_snapshot(area());
    ASSERT_OK(newest);
    EXPECT_EQ(newest->slot, 0U);
    ASSERT_EQ(write(4)->slot, 1U);
    ASSERT_EQ(write(5)->slot, 1U) << "slot 0 is older and pinned: the newer gives way";
    auto other = open_snapshot(area());
    ASSERT_OK(other);
    EXPECT_EQ(other->slot, 1U);
    EXPECT_EQ(write(6).error().kind(), ErrorKind::busy);
    FakeMachine old(*std::move(newest));
    FakeMachine wanted;
    wanted.fill(BlockId::ram_low, 1, 3);
    expect_same_memory(wanted, old);
}

TEST_F(Area, BusyWhileWritten) {
    FakeMachine machine;
    machine.fill(BlockId::ram_low, 1, 1);
    FakeMachine rival;
    for (const CachePolicy cache : {CachePolicy::cached, CachePolicy::direct}) {
        ASSERT_OK(write_snapshot(machine, area(), {}));
        WriteOptions options;
        options.cache = cache;
        std::vector<ErrorKind> writer;
        std::vector<ErrorKind> reader;
        options.hook = [&](const IoEvent& event) {
            if (event.step == IoStep::pages) {
                const auto report = write_snapshot(rival, area(), {});
                writer.push_back(report ? ErrorKind::system : report.error().kind());
                const auto restored = open_snapshot(area());
                reader.push_back(restored ? ErrorKind::system : restored.error().kind());
            }
            return io::Fault{};
        };
        ASSERT_OK(write_snapshot(machine, area(), options));
        ASSERT_EQ(writer.size(), 1U);
        EXPECT_EQ(writer[0], ErrorKind::busy);
        EXPECT_EQ(reader[0], ErrorKind::incomplete);
        EXPECT_EQ(rival.thaws, 0);
    }
}

// The last writes of a killed writer keep its locks, although no process has them any more. A
// descriptor in a socket does the same.
TEST_F(Area, WhatAKilledWriterLeftUnderWayIsWaitedFor) {
    FakeMachine machine;
    machine.fill(BlockId::ram_low, 1, 1);
    ASSERT_OK(write_snapshot(machine, area(), {}));
    const auto waits = [&](auto&& act) {
        UniqueFd fd = *open_file(area().path, O_RDWR);
        ASSERT_OK(lock_range(fd.get(), true, 0, 0, area().path, "nobody"));
        SocketPair under_way;
        under_way.pass(std::move(fd));
        std::jthread last_write([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            under_way.close();
        });
        ASSERT_OK(act());
    };
    waits([&] { return open_snapshot(area()); });
    waits([&] { return write_snapshot(machine, area(), {}); });
    waits([&] { return create_area(area(), shape(machine), {.force = true}); });
}

TEST_F(Area, ReadOnlyFileCanBeRestoredAndNotWritten) {
    FakeMachine machine;
    ASSERT_OK(write_snapshot(machine, area(), {}));
    ASSERT_EQ(::chmod(area().path.c_str(), 0444), 0);
    ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        // Root may write everything, so the child becomes another user.
        if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) {
            ::_exit(3);
        }
        const bool readable = open_snapshot(area()).has_value();
        const auto report = write_snapshot(machine, area(), {});
        const bool refused = !report && report.error().code() == EACCES && machine.thaws == 1;
        ::_exit(readable && refused ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(Area, InspectSaysWhatThereIs) {
    FakeMachine machine;
    machine.fill(BlockId::ram_low, 1, 1);
    WriteOptions options;
    options.metadata = "{\"k\":\"\xff\"}";
    ASSERT_OK(write_snapshot(machine, area(), options));
    const auto info = inspect_area(area());
    ASSERT_OK(info);
    EXPECT_EQ(info->problem, "");
    EXPECT_EQ(info->chosen, 0U);
    EXPECT_EQ(info->blocks.at(0).pages[static_cast<std::size_t>(PageClass::common)], 1U);
    EXPECT_EQ(info->records.size(), machine.records().size());
    EXPECT_NE(to_text(*info).find("ram-low"), std::string::npos);
    EXPECT_NE(to_text(*info).find(", 1 vCPU, kernel"), std::string::npos) << to_text(*info);
    EXPECT_EQ(to_json(*info).find('\n'), std::string::npos);
    EXPECT_NE(to_json(*info).find("\"restorable\":true"), std::string::npos);

    options.hook = [](const IoEvent& event) { return io::Fault{event.step == IoStep::pages ? EIO : 0, 0}; };
    EXPECT_FALSE(write_snapshot(machine, area(), options).has_value());
    const auto torn = inspect_area(area());
    ASSERT_OK(torn);
    EXPECT_NE(torn->problem.find("incomplete"), std::string::npos);
    EXPECT_TRUE(torn->superblocks[0].valid.has_value());
    EXPECT_NE(to_json(*torn).find("\"restorable\":false"), std::string::npos);
    EXPECT_EQ(verify_area(area()).error().kind(), ErrorKind::incomplete);
}

TEST_F(Area, ProgressOfAVerificationIsOfTheSnapshotsInBothSlots) {
    FakeMachine machine;
    WriteOptions options;
    options.slots = 2;
    ASSERT_OK(write_snapshot(machine, area(), options));
    ASSERT_OK(write_snapshot(machine, area(), options));
    std::pair<std::uint64_t, std::uint64_t> last{};
    const auto report = verify_area(area(), [&](std::uint64_t done, std::uint64_t total) {
        EXPECT_LE(done, total);
        last = {done, total};
    });
    ASSERT_OK(report);
    EXPECT_EQ(report->snapshots, 2U);
    EXPECT_EQ(last, std::pair(report->pages, report->pages));
}

TEST_F(Area, ThreadsWriteWhereIoUringIsForbidden) {
    EXPECT_EQ(in_child([&] {
                  if (!refuse_call(SYS_io_uring_setup, EPERM)) {
                      return 3;
                  }
                  FakeMachine machine;
                  machine.fill(BlockId::ram_low, 1, 1);
                  const auto report = write_snapshot(machine, area(), {});
                  return !report ? 1 : report->backend == "threads" ? 0 : 2;
              }),
              0);
    EXPECT_EQ(verify_area(area())->fault_count, 0U);
}

}  // namespace
}  // namespace snapvm::test
