// SPDX-License-Identifier: Apache-2.0
// Both engines: results, errors, short transfers, and an end with requests in flight. The choice of
// an engine is in choice_test.cc.
#include "vmm/io/engine.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"

namespace snapvm::io {
namespace {

using test::need;
using test::ok;
using Bytes = std::vector<std::byte>;

constexpr std::size_t kBlock = 4096;

Request transfer(Request::Kind kind, int fd, std::uint64_t offset, Bytes& bytes) {
    Request request;
    request.kind = kind;
    request.fd = fd;
    request.offset = offset;
    request.size = bytes.size();
    request.buffers = {{bytes.data(), bytes.size()}};
    return request;
}

// Whether a thread of this process is in that system call.
bool is_in_call(long number) {
    for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
        std::ifstream file(thread.path() / "syscall");
        long found = -1;
        if (file >> found && found == number) {
            return true;
        }
    }
    return false;
}

/// A pipe. A read of it is in flight until feed().
class Pipe {
public:
    Pipe() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        read_ = UniqueFd(ends[0]);
        write_ = UniqueFd(ends[1]);
    }
    [[nodiscard]] Request reading(Bytes& bytes) const {
        return transfer(Request::Kind::read, read_.get(), ~std::uint64_t{0}, bytes);  // -1: it has no offsets
    }
    void feed(const Bytes& bytes) const { EXPECT_TRUE(ok(write_all(write_.get(), bytes, "pipe"))); }

private:
    UniqueFd read_;
    UniqueFd write_;
};

class Engines : public ::testing::TestWithParam<EngineKind> {
protected:
    static std::unique_ptr<Engine> engine(EngineOptions options = {}) {
        return need(make_engine(GetParam(), std::move(options)));
    }
    // Returns the result of each request, once all that are in flight have ended.
    static std::map<const Request*, std::int64_t> finish(Engine& engine) {
        std::map<const Request*, std::int64_t> results;
        while (engine.in_flight() > 0) {
            need(engine.wait());
            for (const Completion& one : engine.reap()) {
                EXPECT_TRUE(results.emplace(one.request, one.result).second) << "ended twice";
            }
        }
        return results;
    }
    static std::int64_t run(Engine& engine, Request request) {
        engine.add(request);
        return finish(engine).at(&request);
    }
    void SetUp() override { ASSERT_TRUE(file_.valid()); }
    void fill(std::size_t blocks, std::byte value) const {
        EXPECT_TRUE(ok(write_all_at(file_.get(), Bytes(blocks * kBlock, value), 0, "file")));
    }
    [[nodiscard]] Bytes contents(std::uint64_t offset, std::size_t size) const {
        Bytes bytes(size);
        EXPECT_TRUE(ok(read_exactly_at(file_.get(), bytes, offset, "file")));
        return bytes;
    }
    // Writes of one block each, of 1, 2, 3, ... from the start of the file.
    std::vector<Request> writes(std::size_t count) {
        blocks_.clear();
        std::vector<Request> requests;
        for (std::size_t i = 0; i < count; ++i) {
            blocks_.emplace_back(kBlock, static_cast<std::byte>(i + 1));
            requests.push_back(transfer(Request::Kind::write, file_.get(), i * kBlock, blocks_.back()));
        }
        return requests;
    }

    UniqueFd file_{::memfd_create("engine", MFD_CLOEXEC)};
    std::vector<Bytes> blocks_;
};

TEST_P(Engines, BeyondTheDepthAllEndOnce) {
    const auto io = engine({.depth = 4});
    EXPECT_EQ(io->name(), GetParam() == EngineKind::uring ? "io_uring" : "threads");
    std::vector<Request> requests = writes(64);
    for (Request& request : requests) {
        io->add(request);
    }
    io->submit();
    EXPECT_EQ(io->in_flight(), 64U);
    const auto results = finish(*io);
    EXPECT_EQ(results.size(), 64U);
    for (std::size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(results.at(&requests[i]), kBlock);
        EXPECT_TRUE(contents(i * kBlock, kBlock) == blocks_[i]) << i;
    }
    EXPECT_TRUE(io->reap().empty());
}

TEST_P(Engines, BuffersAreGatheredAndScattered) {
    const auto io = engine();
    for (const int flags : {0, RWF_DSYNC}) {
        fill(1, std::byte{0});
        Bytes one(10, std::byte{1});
        Bytes two(20, std::byte{2});
        Request write = transfer(Request::Kind::write, file_.get(), 100, one);
        write.buffers.push_back({two.data(), two.size()});
        write.flags = flags;
        EXPECT_EQ(run(*io, write), 30);
        Bytes back(10);
        Bytes more(20);
        Request read = transfer(Request::Kind::read, file_.get(), 100, back);
        read.buffers.push_back({more.data(), more.size()});
        EXPECT_EQ(run(*io, read), 30);
        EXPECT_TRUE(back == one && more == two);
        Request single = transfer(Request::Kind::write, file_.get(), 500, two);
        single.flags = flags;
        EXPECT_EQ(run(*io, single), 20);
        EXPECT_TRUE(contents(500, 20) == two);
    }
}

TEST_P(Engines, OtherCalls) {
    const auto io = engine();
    fill(4, std::byte{5});
    Request request;
    request.fd = file_.get();
    request.kind = Request::Kind::flush;
    EXPECT_EQ(run(*io, request), 0);
    request.kind = Request::Kind::allocate;
    request.offset = kBlock;
    request.size = kBlock;
    request.flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    EXPECT_EQ(run(*io, request), 0);
    EXPECT_TRUE(contents(kBlock, kBlock) == Bytes(kBlock));
    EXPECT_TRUE(contents(2 * kBlock, kBlock) == Bytes(kBlock, std::byte{5}));
    request.kind = Request::Kind::discard;
    EXPECT_EQ(run(*io, request), -ENOTTY) << "it is for block devices";
}

TEST_P(Engines, TheKernelsErrorsAreTold) {
    const auto io = engine();
    const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
    ASSERT_TRUE(full.valid());
    Bytes bytes(kBlock);
    EXPECT_EQ(run(*io, transfer(Request::Kind::write, full.get(), 0, bytes)), -ENOSPC);
    EXPECT_EQ(run(*io, transfer(Request::Kind::read, -1, 0, bytes)), -EBADF);
    fill(1, std::byte{1});
    EXPECT_EQ(run(*io, transfer(Request::Kind::read, file_.get(), kBlock - 10, bytes)), 10) << "the file ends there";
    EXPECT_EQ(run(*io, transfer(Request::Kind::read, file_.get(), kBlock, bytes)), 0);
}

TEST_P(Engines, AnErrorAtEachStepIsThatRequestsAlone) {
    constexpr std::size_t kWrites = 12;
    for (const int error : {ENOSPC, EIO}) {
        for (std::size_t step = 0; step < kWrites; ++step) {
            fill(kWrites, std::byte{0x77});
            const auto io = engine({.depth = 4, .hook = [&, seen = std::size_t{0}](const Request&) mutable {
                                        return Fault{seen++ == step ? error : 0, 0};
                                    }});
            std::vector<Request> requests = writes(kWrites);
            for (Request& request : requests) {
                io->add(request);
            }
            const auto results = finish(*io);
            for (std::size_t i = 0; i < kWrites; ++i) {
                EXPECT_EQ(results.at(&requests[i]), i == step ? -error : std::int64_t{kBlock});
                EXPECT_TRUE(contents(i * kBlock, kBlock) == (i == step ? Bytes(kBlock, std::byte{0x77}) : blocks_[i]))
                    << "error at " << step << ", block " << i;
            }
        }
    }
}

TEST_P(Engines, AShortTransferMovesThatManyBytes) {
    fill(1, std::byte{0});
    const auto io = engine({.hook = [](const Request&) { return Fault{0, 700}; }});
    Bytes one(512, std::byte{1});
    Bytes two(512, std::byte{2});
    Request write = transfer(Request::Kind::write, file_.get(), 0, one);
    write.buffers.push_back({two.data(), two.size()});
    write.size = 1024;
    EXPECT_EQ(run(*io, write), 700);
    EXPECT_TRUE(contents(0, 512) == one);
    EXPECT_TRUE(contents(512, 188) == Bytes(188, std::byte{2}));
    EXPECT_TRUE(contents(700, 324) == Bytes(324));
    Bytes back(1024, std::byte{9});
    EXPECT_EQ(run(*io, transfer(Request::Kind::read, file_.get(), 0, back)), 700);
    EXPECT_EQ(back[699], std::byte{2});
    EXPECT_EQ(back[700], std::byte{9});
}

// Without the wait the pipe is empty when the engine is gone, and the kernel fills memory later
// that belongs to others by then.
TEST_P(Engines, TheEndWaitsForWhatHasBegun) {
    Bytes bytes(3);
    const Bytes fed(3, std::byte{7});
    const Pipe pipe;
    Request request = pipe.reading(bytes);
    auto io = engine();
    io->add(request);
    io->submit();
    // A thread has to come to the request first; what no thread has begun is dropped.
    ASSERT_TRUE(GetParam() == EngineKind::uring || test::eventually([] { return is_in_call(SYS_preadv2); }));
    std::atomic<bool> is_fed = false;
    std::thread feeder([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        is_fed = true;
        pipe.feed(fed);
    });
    io.reset();
    EXPECT_TRUE(is_fed);
    EXPECT_TRUE(bytes == fed);
    feeder.join();
}

TEST_P(Engines, WhatWasNotSubmittedNeverBegins) {
    fill(2, std::byte{0x77});
    {
        const auto io = engine();
        std::vector<Request> requests = writes(2);
        io->add(requests[0]);
        EXPECT_EQ(finish(*io).at(&requests[0]), kBlock);
        io->add(requests[1]);
        EXPECT_TRUE(io->reap().empty());
    }
    EXPECT_TRUE(contents(0, kBlock) == blocks_[0]);
    EXPECT_TRUE(contents(kBlock, kBlock) == Bytes(kBlock, std::byte{0x77}));
}

TEST_P(Engines, AWaitEndsWithTheFirstRequest) {
    const Pipe first;
    const Pipe second;
    Bytes bytes(1);
    Bytes more(1);
    Request one = first.reading(bytes);
    Request two = second.reading(more);
    const auto io = engine();
    EXPECT_TRUE(ok(io->wait())) << "nothing is in flight";
    io->add(one);
    io->add(two);
    io->submit();
    EXPECT_TRUE(io->reap().empty());
    second.feed({std::byte{2}});
    EXPECT_TRUE(ok(io->wait()));
    const auto ended = io->reap();
    ASSERT_EQ(ended.size(), 1U);
    EXPECT_EQ(ended[0].request, &two);
    EXPECT_EQ(more[0], std::byte{2});
    EXPECT_EQ(io->in_flight(), 1U);
    first.feed({std::byte{1}});
    EXPECT_EQ(finish(*io).at(&one), 1);
}

// A discard is a thread's also where io_uring carries out the rest; wait() knows both.
TEST_P(Engines, AWaitEndsWithADiscard) {
    const auto io = engine();
    std::vector<Request> requests = writes(1);
    Request discard;
    discard.kind = Request::Kind::discard;
    discard.fd = file_.get();
    discard.size = kBlock;
    io->add(discard);
    io->add(requests[0]);
    const auto results = finish(*io);
    EXPECT_EQ(results.at(&requests[0]), kBlock);
    EXPECT_EQ(results.at(&discard), -ENOTTY);
}

TEST_P(Engines, TheEventTellsOfResultsAndFaults) {
    const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const auto readable = [&](int milliseconds) {
        pollfd wait{event.get(), POLLIN, 0};
        return ::poll(&wait, 1, milliseconds) == 1;
    };
    bool fails = false;
    const auto io = engine({.event = event.get(), .hook = [&](const Request&) { return Fault{fails ? EIO : 0, 0}; }});
    for (const Request::Kind kind : {Request::Kind::read, Request::Kind::discard}) {
        for (const bool fault : {false, true}) {
            fails = fault;
            Bytes bytes(kBlock);
            Request request = transfer(kind, file_.get(), 0, bytes);
            EXPECT_FALSE(readable(0));
            io->add(request);
            io->submit();
            ASSERT_TRUE(readable(10'000));
            eventfd_t count = 0;
            (void)::eventfd_read(event.get(), &count);
            const auto ended = io->reap();
            ASSERT_EQ(ended.size(), 1U);
            EXPECT_EQ(ended[0].result, fault ? -EIO : kind == Request::Kind::discard ? -ENOTTY : 0);
        }
    }
}

// A caller that reads the event and then reaps, as event loops do, misses nothing.
TEST_P(Engines, TheEventLosesNoResult) {
    const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const auto io = engine({.depth = 8, .event = event.get()});
    std::vector<Request> requests = writes(16);
    for (int round = 0; round < 500; ++round) {
        for (Request& request : requests) {
            io->add(request);
            io->submit();
        }
        while (io->in_flight() > 0) {
            pollfd wait{event.get(), POLLIN, 0};
            ASSERT_EQ(::poll(&wait, 1, 10'000), 1) << "round " << round << ", " << io->in_flight() << " never end";
            eventfd_t count = 0;
            (void)::eventfd_read(event.get(), &count);
            (void)io->reap();
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Both, Engines, ::testing::Values(EngineKind::uring, EngineKind::threads),
                         [](const auto& kind) { return kind.param == EngineKind::uring ? "Uring" : "Threads"; });

}  // namespace
}  // namespace snapvm::io
