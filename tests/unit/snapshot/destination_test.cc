// SPDX-License-Identifier: Apache-2.0
// The rounds know nothing of a snapshot's destination. Here it is memory.
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "snapshot/format/page_entry.h"
#include "snapshot/format/sections.h"
#include "snapshot/write/write_snapshot.h"
#include "tests/support/result_matchers.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;

using Page = std::array<std::byte, kPageSize>;
using PageNumber = std::pair<std::size_t, std::uint64_t>;  // block, page

/// Keeps what it gets, and records faults in the way in which it gets it.
class MemoryDestination final : public Destination {
public:
    [[nodiscard]] std::string_view name() const override { return "memory"; }
    [[nodiscard]] std::optional<Uuid> previous() const override { return std::nullopt; }
    [[nodiscard]] bool is_empty() const override { return true; }

    Status begin(const Uuid& /*machine*/, const Uuid& /*snapshot*/) override {
        call("begin");
        expect(!begun_, "begun once");
        begun_ = true;
        return {};
    }
    Status put(const PageRun& run) override {
        call("put");
        expect(begun_ && !committed, "pages come between begin and commit");
        expect(run.bytes.size() <= kMaxRunBytes, "a run has at most 1 MiB");
        expect(run.bytes.size() == run.facts.size() * kPageSize, "facts for each page");
        expect(run.round >= round_ && run.round > 0, "rounds count upwards");
        round_ = run.round;
        if (on_put) {
            on_put(run);
        }
        if (fail_put) {
            return fail(ErrorKind::system, "the other side is gone");
        }
        for (std::size_t i = 0; i < run.facts.size(); ++i) {
            const PageNumber number{run.block, run.first + i};
            expect(queued_.emplace(number, run.bytes.subspan(i * kPageSize, kPageSize)).second,
                   "a page is put once between two drains");
        }
        return {};
    }
    Status drain() override {
        // The latest moment at which the bytes may be read.
        for (const auto& [number, bytes] : queued_) {
            std::memcpy(pages[number].data(), bytes.data(), kPageSize);
        }
        queued_.clear();
        return {};
    }
    Status put_state(SnapshotState taken) override {
        call("put_state");
        state = std::move(taken);
        return {};
    }
    Status commit(const PageTable::Resolved& table, std::string_view metadata,
                  const std::function<Status()>& check_cancelled) override {
        call("commit");
        expect(queued_.empty(), "drained before the commit");
        if (on_commit) {
            on_commit();
        }
        TRY(check_cancelled());
        for (const auto& words : table.entries) {
            entries.emplace_back(words.all().begin(), words.all().end());
        }
        noted = metadata;
        committed = true;
        return {};
    }
    void fill(SnapshotReport& report) const override { report.backend = "memory"; }

    std::function<void(const PageRun&)> on_put;
    std::function<void()> on_commit;
    bool fail_put = false;

    std::map<PageNumber, Page> pages;
    SnapshotState state;
    std::vector<std::vector<std::uint64_t>> entries;  ///< by block
    std::string noted;
    bool committed = false;
    std::vector<std::string> calls;  ///< each once for a row of equal ones
    std::set<std::string> faults;

private:
    void call(const std::string& name) {
        if (calls.empty() || calls.back() != name) {
            calls.push_back(name);
        }
    }
    void expect(bool right, const char* rule) {
        if (!right) {
            faults.insert(rule);
        }
    }
    bool begun_ = false;
    std::uint32_t round_ = 0;
    std::map<PageNumber, std::span<const std::byte>> queued_;
};

class IntoMemory : public ::testing::TestWithParam<SnapshotMode> {
protected:
    void SetUp() override {
        for (std::uint64_t page = 0; page < 700; ++page) {
            machine_.fill(kLow, page, 1);
        }
        machine_.on_freeze = [this] {
            for (const MemoryBlock& block : machine_.memory().blocks()) {
                at_instant_.emplace_back(block.host(), block.host() + block.spec().size);
            }
        };
    }
    static WriteOptions options() {
        WriteOptions options;
        options.mode = GetParam();
        options.live.staging_bytes = 4ULL << 20;
        return options;
    }
    void expect_the_instant() {
        ASSERT_EQ(destination_.entries.size(), at_instant_.size());
        std::uint64_t with_data = 0;
        for (std::size_t block = 0; block < at_instant_.size(); ++block) {
            const BlockId id = machine_.memory().blocks()[block].spec().id;
            for (std::uint64_t page = 0; page < destination_.entries[block].size(); ++page) {
                const auto entry = PageEntry::decode(destination_.entries[block][page]);
                ASSERT_OK(entry);
                const std::span wanted(at_instant_[block].data() + page * kPageSize, kPageSize);
                Page found{};
                if (has_data(entry->page_class)) {
                    ++with_data;
                    ASSERT_TRUE(destination_.pages.contains({block, page})) << block << " " << page;
                    found = destination_.pages[{block, page}];
                }
                ASSERT_EQ(std::memcmp(found.data(), wanted.data(), kPageSize), 0) << block << " " << page;
                if (entry->page_class == PageClass::common) {
                    ASSERT_EQ(entry->checksum, page_checksum(id, page, wanted)) << block << " " << page;
                }
            }
        }
        EXPECT_GE(with_data, 700U);
    }

    FakeMachine machine_;
    MemoryDestination destination_;
    std::vector<std::vector<std::byte>> at_instant_;
};

TEST_P(IntoMemory, HoldsTheInstantThoughTheGuestWritesMeanwhile) {
    unsigned puts = 0;
    destination_.on_put = [&](const PageRun&) {
        if (machine_.frozen == 0 && ++puts <= 2) {
            machine_.fill(kLow, 5 * puts, 2);    // its place has been put, and may be read again
            machine_.fill(kLow, 800 + puts, 2);  // had no data
            machine_.clear(kLow, 300 + puts);    // has none any more
        }
    };
    WriteOptions options = IntoMemory::options();
    options.metadata = R"({"a":1})";
    const auto report = write_snapshot(machine_, destination_, options);
    ASSERT_OK(report);
    EXPECT_TRUE(destination_.committed);
    EXPECT_TRUE(destination_.faults.empty()) << *destination_.faults.begin();
    EXPECT_EQ(destination_.noted, options.metadata);
    EXPECT_EQ(report->backend, "memory");
    EXPECT_EQ(machine_.frozen, 0);
    EXPECT_EQ(machine_.quiesced, 0);
    expect_the_instant();
    const auto start = StartSection::decode(destination_.state.start);
    ASSERT_OK(start);
    EXPECT_EQ(start->config, machine_.config());
    EXPECT_EQ(destination_.calls.front(), "begin");
    EXPECT_EQ(destination_.calls.back(), "commit");
}

TEST_P(IntoMemory, AnErrorLeavesTheMachineRunning) {
    destination_.fail_put = true;
    const auto report = write_snapshot(machine_, destination_, options());
    EXPECT_TRUE(fails(report, ErrorKind::system, "the other side is gone"));
    EXPECT_FALSE(destination_.committed);
    EXPECT_EQ(machine_.frozen, 0);
    EXPECT_EQ(machine_.quiesced, 0);
}

TEST_P(IntoMemory, CanBeCalledOffUntilItIsValid) {
    SnapshotMonitor monitor;
    WriteOptions options = IntoMemory::options();
    options.monitor = &monitor;
    destination_.on_commit = [&] { monitor.cancel(); };
    const auto report = write_snapshot(machine_, destination_, options);
    EXPECT_TRUE(fails(report, ErrorKind::cancelled, "called off"));
    EXPECT_FALSE(destination_.committed);
    EXPECT_EQ(machine_.frozen, 0);
    EXPECT_EQ(monitor.phase, SnapshotPhase::done);
}

TEST_P(IntoMemory, ADiffNeedsASnapshotThatIsKnown) {
    WriteOptions options = IntoMemory::options();
    options.type = SnapshotType::diff;
    EXPECT_TRUE(fails(write_snapshot(machine_, destination_, options), ErrorKind::usage, "memory: what changed"));
    EXPECT_TRUE(destination_.calls.empty());
}

INSTANTIATE_TEST_SUITE_P(Modes, IntoMemory,
                         ::testing::Values(SnapshotMode::live, SnapshotMode::precopy, SnapshotMode::stop));

}  // namespace
}  // namespace snapvm::test
