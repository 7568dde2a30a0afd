// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/output_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <future>
#include <string>
#include <thread>

#include "tests/support/child.h"
#include "vmm/base/fd.h"
#include "vmm/host/end_limit.h"

namespace snapvm {
namespace {

using namespace std::chrono_literals;
using Clock = OutputWriter::Clock;

class OutputWriterTest : public ::testing::Test {
protected:
    void SetUp() override {
        ::signal(SIGPIPE, SIG_IGN);
        std::array<int, 2> ends{};
        ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        reading_ = UniqueFd(ends[0]);
        writing_ = UniqueFd(ends[1]);
        ASSERT_GT(::fcntl(writing_.get(), F_SETPIPE_SZ, 4096), 0);
    }
    UniqueFd reading_;
    UniqueFd writing_;
};

TEST_F(OutputWriterTest, AllBytesReachASlowReader) {
    OutputWriter writer(writing_.get());
    const std::string sent(100'000, 'x');
    auto written = std::async(std::launch::async, [&] { return writer.write(sent); });
    std::string got;
    std::array<char, 777> chunk;
    while (got.size() < sent.size()) {
        got.append(chunk.data(), static_cast<std::size_t>(::read(reading_.get(), chunk.data(), chunk.size())));
    }
    EXPECT_TRUE(written.get());
    EXPECT_EQ(got, sent);
}

TEST_F(OutputWriterTest, ADeadlineEndsAWriteThatWaits) {
    OutputWriter writer(writing_.get());
    auto written = std::async(std::launch::async, [&] { return writer.write(std::string(10'000, 'x')); });
    EXPECT_EQ(written.wait_for(100ms), std::future_status::timeout) << "nobody reads";
    writer.give_up_at(Clock::now());
    EXPECT_FALSE(written.get());
    EXPECT_FALSE(writer.write("more"));
}

TEST_F(OutputWriterTest, AReaderThatIsGoneTakesNoMore) {
    OutputWriter writer(writing_.get());
    reading_.reset();
    EXPECT_FALSE(writer.write("x"));
}

TEST(EndLimit, EndsAProcessThatWaitsForEver) {
    const int code = test::in_child([] {
        EndLimit limit;
        limit.set({.rest = 100ms, .snapshot = 1h}, 42, nullptr);
        limit.set({.rest = 10ms, .snapshot = 1h}, 43, nullptr);  // the first counts
        while (true) {
            std::this_thread::sleep_for(1h);
        }
        return 0;
    });
    EXPECT_EQ(code, 42);
}

TEST(EndLimit, IsLiftedWithTheObject) {
    const int code = test::in_child([] {
        {
            EndLimit().set({.rest = 200ms, .snapshot = 200ms}, 42, nullptr);
        }
        std::this_thread::sleep_for(400ms);
        return 0;
    });
    EXPECT_EQ(code, 0);
}

TEST(EndLimit, WaitsForASnapshotAsLongAsItGetsOn) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK), 0);
    const UniqueFd reading(pipe[0]);
    const UniqueFd writing(pipe[1]);
    const int code = test::in_child([&] {
        std::atomic<std::uint64_t> written = 0;
        EndLimit limit;
        limit.set({.rest = 10ms, .snapshot = 500ms}, 42, [&] { return std::optional(written.load()); });
        for (int i = 0; i < 60; ++i) {
            ++written;
            std::this_thread::sleep_for(20ms);
        }
        (void)!::write(writing.get(), "x", 1);
        std::this_thread::sleep_for(1h);  // and now it does not
        return 0;
    });
    EXPECT_EQ(code, 42);
    char got = 0;
    EXPECT_EQ(::read(reading.get(), &got, 1), 1) << "it ended while the snapshot got on";
}

}  // namespace
}  // namespace snapvm
