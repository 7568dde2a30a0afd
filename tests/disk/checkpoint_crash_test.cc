// SPDX-License-Identifier: Apache-2.0
// Changes of checkpoints that a failed call or a power loss ends: the change has happened, or has
// not, and all checkpoints have their bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <optional>

#include "tests/disk/checkpoint_rig.h"
#include "tests/disk/power_loss.h"
#include "tests/support/command.h"

namespace snapvm::disk {
namespace {

using namespace test_rig;
using snapvm::test::fails;
using snapvm::test::is_clean;

enum class Act : std::uint8_t { save, revert, remove };

// Returns some of a change's moments, the first and the last among them.
std::vector<std::uint64_t> some_of(std::uint64_t count) {
    const std::uint64_t most = snapvm::disk::test::test_points(6);
    std::vector<std::uint64_t> some;
    for (std::uint64_t i = 0; i < std::min(count, most); ++i) {
        some.push_back(count <= most ? i : i * (count - 1) / (most - 1));
    }
    return some;
}

/// What an image holds.
struct State {
    Bytes disk;
    std::map<std::string, Bytes> checkpoints;
    bool operator==(const State&) const = default;
};

class CheckpointCrash : public ::testing::TestWithParam<std::tuple<Case, Act>> {
protected:
    void SetUp() override {
        SNAPVM_REQUIRE_QEMU_IMG();
        std::mt19937_64 random(31);
        disk_ = make_disk(std::get<0>(GetParam()), random);
        before_.disk = disk_->model;
        Opened opened(disk_->chain);
        ASSERT_TRUE(ok(opened.status()));
        for (const char* const name : {"one", "two"}) {
            change(opened, before_.disk, 12, random);
            ASSERT_TRUE(ok(save(opened, name)));
            before_.checkpoints[name] = before_.disk;
        }
        change(opened, before_.disk, 12, random);
        close(opened);
        after_ = before_;
        switch (std::get<1>(GetParam())) {
            case Act::save: after_.checkpoints["three"] = before_.disk; break;
            case Act::revert: after_.disk = before_.checkpoints["one"]; break;
            case Act::remove: after_.checkpoints.erase("one"); break;
        }
        file_ = read_file(path());
    }

    [[nodiscard]] const std::string& path() const { return disk_->chain.front().path; }
    [[nodiscard]] bool version_2() const { return std::get<0>(GetParam()).name.starts_with("version_2"); }

    Task<Status> act(Image& image) {
        switch (std::get<1>(GetParam())) {
            case Act::save: return save_three(image);
            case Act::revert: return qcow2::revert_to_checkpoint(image, one_, SizeChange::refuse);
            case Act::remove: break;
        }
        return qcow2::remove_checkpoint(image, one_);
    }
    Task<Status> save_three(Image& image) {
        NewCheckpoint what;
        what.name = "three";
        Result<Checkpoint> saved = co_await qcow2::save_checkpoint(image, what);
        CO_TRY(saved);
        co_return Status{};
    }

    // Opens the image, which repairs it if it has the dirty bit, and returns what it holds.
    State repaired() {
        State state;
        const bool dirty = (std::to_integer<unsigned>(read_file(path()).at(79)) & 1U) != 0;
        EXPECT_FALSE(dirty && version_2());
        {
            Opened opened(disk_->chain);
            EXPECT_TRUE(ok(opened.status()));
            if (!opened.status()) {
                return state;
            }
            for (const std::string& name : names(opened)) {
                state.checkpoints[name] = {};
            }
            close(opened);
        }
        if (version_2()) {
            (void)snapvm::test::run_program({"qemu-img", "check", "-r", "all", path()});
        }
        EXPECT_TRUE(is_clean(path(), /*leaks_allowed=*/!dirty));
        for (auto& [name, bytes] : state.checkpoints) {
            bytes = qemu_reads(*disk_, name);
        }
        state.disk = qemu_reads(*disk_);
        return state;
    }

    // Whatever the flags say, writes to the disk leave the checkpoints alone.
    void overwrite_disk(State state) {
        state.disk.assign(state.disk.size(), std::byte{0x77});
        {
            Opened opened(disk_->chain);
            ASSERT_TRUE(ok(opened.status()));
            ASSERT_TRUE(ok(opened.write(0, state.disk)));
            close(opened);
        }
        for (const auto& [name, bytes] : state.checkpoints) {
            EXPECT_EQ(qemu_reads(*disk_, name), bytes) << name;
        }
        EXPECT_EQ(qemu_reads(*disk_), state.disk);
    }

    using Which = std::function<bool(const io::Request&)>;

    // Executes the change, during which the hook is armed.
    Status execute_failing(Opened& opened, bool& armed) {
        armed = true;
        Status status = opened.run(act(opened.image()));
        armed = false;
        EXPECT_EQ(opened.read(0, opened->size()), status ? after_.disk : before_.disk);
        return status;
    }

    // Returns how many such calls the change makes.
    std::uint64_t count(const Which& which) {
        bool armed = false;
        std::uint64_t calls = 0;
        Opened opened(disk_->chain, {}, [&](const io::Request& request) {
            calls += armed && which(request) ? 1 : 0;
            return io::Fault{};
        });
        EXPECT_TRUE(ok(execute_failing(opened, armed)));
        return calls;
    }

    // Of the calls that `which` is true for, those with the numbers from `first` to `last` fail.
    // When a flush has failed, all later ones may (file_calls.cc), and only what the file has
    // counts. So it is when a revert does not know which header the file has: then nothing more is
    // written.
    void fail_calls(const Which& which, std::uint64_t first, std::uint64_t last, int error) {
        write_file(path(), file_);
        bool armed = false;
        bool flush_failed = false;
        bool refused = false;
        std::uint64_t calls = 0;
        State expected;
        {
            Opened opened(disk_->chain, {}, [&](const io::Request& request) {
                const bool mine = armed && which(request);
                const bool now = mine && calls >= first && calls <= last;
                calls += mine ? 1 : 0;
                flush_failed |= now && request.kind == io::Request::Kind::flush;
                return io::Fault{.error = now ? error : 0};
            });
            ASSERT_TRUE(ok(opened.status()));
            expected = execute_failing(opened, armed) ? after_ : before_;
            EXPECT_GT(calls, first);
            if (!flush_failed) {
                const Status written = opened.write(0, Bytes(kSector, std::byte{9}));
                refused = !written && std::get<1>(GetParam()) == Act::revert && first != last;
                ASSERT_TRUE(refused ? fails(written, ErrorKind::invalid, "takes no more writes") : ok(written));
                std::fill_n(expected.disk.begin(), written ? kSector : 0, std::byte{9});
                close(opened);
            }
        }
        const State found = repaired();
        ASSERT_TRUE(found == expected || ((flush_failed || refused) && (found == before_ || found == after_)));
        overwrite_disk(found);
    }

    std::unique_ptr<Disk> disk_;
    const std::string one_ = "one";
    State before_;
    State after_;
    Bytes file_;  ///< of the state before
};

TEST_P(CheckpointCrash, AFailedCallLeavesAllAsItWas) {
    const auto all = [](const io::Request&) { return true; };
    for (const std::uint64_t failing : some_of(count(all))) {
        SCOPED_TRACE(failing);
        fail_calls(all, failing, failing, EIO);
    }
}

// From some call on, the disk is full.
TEST_P(CheckpointCrash, ADiskThatIsFullLeavesAllAsItWas) {
    const auto writes = [](const io::Request& request) { return request.kind == io::Request::Kind::write; };
    for (const std::uint64_t first : some_of(count(writes))) {
        SCOPED_TRACE(first);
        fail_calls(writes, first, ~0ULL, ENOSPC);
    }
}

TEST_P(CheckpointCrash, APowerLossLeavesAllOrNothingOfAChange) {
    test::PowerLoss calls(path());
    std::size_t begin = 0;
    {
        Opened opened(disk_->chain, {}, calls.hook());
        ASSERT_TRUE(ok(opened.status()));
        begin = calls.calls();
        ASSERT_TRUE(ok(calls.run(opened.loop(), act(opened.image()))));
    }
    std::mt19937_64 random(32);
    bool seen_before = false;
    bool seen_after = false;
    for (const std::uint64_t step : some_of(calls.calls() - begin + 1)) {
        const std::size_t point = begin + step;
        SCOPED_TRACE(point);
        calls.build(point, random, path());
        const Bytes lost = read_file(path());
        const State state = repaired();
        ASSERT_TRUE(state == before_ || state == after_);
        seen_before |= state == before_;
        seen_after |= state == after_;
        if (point == calls.calls()) {
            EXPECT_TRUE(state == after_);
        }
        write_file(path(), lost);
        overwrite_disk(state);
    }
    EXPECT_TRUE(seen_before);
    EXPECT_TRUE(seen_after);
}

std::vector<Case> crash_cases() {
    std::vector<Case> chosen;
    for (Case one : cases()) {
        for (const char* const name : {"plain", "subclusters_16K", "version_2_512", "on_zlib"}) {
            if (one.name == name) {
                one.size = std::min<std::uint64_t>(one.size, 512U << 10);
                one.behind_size = std::min<std::uint64_t>(one.behind_size, 512U << 10);
                chosen.push_back(one);
            }
        }
    }
    return chosen;
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<Case, Act>>& one) {
    static const std::map<Act, std::string> acts = {
        {Act::save, "save"}, {Act::revert, "revert"}, {Act::remove, "remove"}};
    return std::get<0>(one.param).name + "_" + acts.at(std::get<1>(one.param));
}

INSTANTIATE_TEST_SUITE_P(Images, CheckpointCrash,
                         ::testing::Combine(::testing::ValuesIn(crash_cases()),
                                            ::testing::Values(Act::save, Act::revert, Act::remove)),
                         name_of);

}  // namespace
}  // namespace snapvm::disk
