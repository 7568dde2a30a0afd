// SPDX-License-Identifier: Apache-2.0
// Compares the trackers with the truth: every byte of memory with a copy that is updated by their
// reports alone.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "tests/kvm/harness.h"

namespace snapvm::test {
namespace {

struct TrackerCase {
    const char* name;
    DirtyTracking dirty;
    std::uint32_t cpus;
};

class Tracker : public KvmTest, public ::testing::WithParamInterface<TrackerCase> {};

/// A copy of guest memory that is updated by the tracker's reports.
class Mirror {
public:
    explicit Mirror(std::span<const MemoryBlock> blocks) : blocks_(blocks) {
        for (const MemoryBlock& block : blocks) {
            copies_.emplace_back(block.host(), block.host() + block.spec().size);
        }
    }
    void update(DirtySet& pages) {
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            (void)for_each_run(pages.words(i), pages.pages(i), [&](std::uint64_t first, std::uint64_t count) {
                std::memcpy(copies_[i].data() + first * kPageSize, blocks_[i].host() + first * kPageSize,
                            count * kPageSize);
                return Status{};
            });
        }
        pages.clear();
    }
    /// Returns the first page that differs from its copy.
    std::string difference() const {
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            for (std::uint64_t page = 0; page < blocks_[i].spec().pages(); ++page) {
                if (std::memcmp(copies_[i].data() + page * kPageSize, blocks_[i].page(page).data(), kPageSize) != 0) {
                    return std::string(name_of(blocks_[i].spec().id)) + " page " + std::to_string(page);
                }
            }
        }
        return "";
    }

private:
    std::span<const MemoryBlock> blocks_;
    std::vector<std::vector<std::byte>> copies_;
};

TEST_P(Tracker, ReportsEveryWrite) {
    const TrackerCase& c = GetParam();
    const kvm::Capabilities& caps = system().capabilities();
    if (c.dirty == DirtyTracking::ring ? caps.dirty_ring == 0 : caps.manual_dirty_log == 0) {
        GTEST_SKIP() << "this KVM has no dirty " << (c.dirty == DirtyTracking::ring ? "ring" : "log");
    }
    const char* count = std::getenv("SNAPVM_TEST_MOMENTS");
    const long moments = count != nullptr ? std::atol(count) : 15;
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = c.cpus, .cmdline = "ws=8M rate=4000 seen=1 pattern=hot", .host = {.dirty = c.dirty}});
    const auto blocks = machine->memory().blocks();
    DirtyFeed& feed = *machine->dirty();
    const auto subscription = need(feed.subscribe());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        need(feed.arm(i, 0, blocks[i].spec().pages()));
    }
    feed.all_armed();
    Mirror mirror(blocks);
    for (long moment = 0; moment < moments; ++moment) {
        for (int round = 0; round < 3; ++round) {
            run_a_while(2ms);
            need(feed.collect());
            mirror.update(subscription->pages());
        }
        need(machine->freeze());
        need(feed.collect());
        mirror.update(subscription->pages());
        ASSERT_EQ(mirror.difference(), "") << "moment " << moment;
        machine->thaw();
    }
    expect_sound_end(*machine);
}

// Trap: newer kernels leave KVM_RESET_DIRTY_RINGS when the process is stopped, and forget pages.
// Another process stops this one repeatedly.
TEST_F(KvmTest, AProcessThatIsStoppedLosesNoPageOfTheRing) {
    if (system().capabilities().dirty_ring == 0) {
        GTEST_SKIP() << "this KVM has no dirty ring";
    }
    const std::unique_ptr<Machine> machine =
        boot_ledger({.cpus = 2, .cmdline = "ws=2M rate=0 stir=24M", .host = {.dirty = DirtyTracking::ring}});
    std::array<int, 2> over{};  // a pipe; at its end the stopper exits, at a moment at which this process runs
    ASSERT_EQ(::pipe2(over.data(), O_CLOEXEC | O_NONBLOCK), 0);
    const UniqueFd read_end(over[0]);
    UniqueFd write_end(over[1]);
    const pid_t us = ::getpid();
    const pid_t stopper = ::fork();
    ASSERT_GE(stopper, 0);
    if (stopper == 0) {
        write_end.reset();
        char none = 0;
        while (::read(read_end.get(), &none, 1) != 0) {
            ::kill(us, SIGSTOP);
            ::usleep(20);
            ::kill(us, SIGCONT);
            ::usleep(50);
        }
        ::_exit(0);
    }
    DirtyFeed& feed = *machine->dirty();
    const auto subscription = need(feed.subscribe());
    feed.all_armed();
    Mirror mirror(machine->memory().blocks());
    std::string lost;
    for (int moment = 0; moment < 40 && lost.empty(); ++moment) {
        for (int round = 0; round < 5; ++round) {
            run_a_while(6ms);
            need(feed.collect());
            mirror.update(subscription->pages());
        }
        need(machine->freeze());
        need(feed.collect());
        mirror.update(subscription->pages());
        lost = mirror.difference();
        machine->thaw();
    }
    write_end.reset();
    ASSERT_EQ(::waitpid(stopper, nullptr, 0), stopper);
    EXPECT_EQ(lost, "");
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Tracker,
    ::testing::Values(TrackerCase{"Log1", DirtyTracking::log, 1}, TrackerCase{"Log2", DirtyTracking::log, 2},
                      TrackerCase{"Log4", DirtyTracking::log, 4}, TrackerCase{"Ring1", DirtyTracking::ring, 1},
                      TrackerCase{"Ring2", DirtyTracking::ring, 2}, TrackerCase{"Ring4", DirtyTracking::ring, 4}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace snapvm::test
