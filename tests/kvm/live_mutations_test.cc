// SPDX-License-Identifier: Apache-2.0
// Proves that the tests of live snapshots can fail: with one page lost on purpose, whatever wrote
// it, they must fail.
#include <sys/mman.h>

#include <functional>
#include <optional>

#include "tests/kvm/harness.h"
#include "vmm/base/try.h"
#include "vmm/control/machine_source.h"

namespace snapvm::test {
namespace {

/// What a mutation does. All functions are called on the snapshot's thread.
struct Mutation {
    std::function<void()> before_first_collect = [] {};  ///< called when every page has been copied once
    std::function<void()> before_freeze = [] {};  ///< called after the last collect before the pause
    std::function<void(DirtySet& found, bool frozen)> lose = [](DirtySet&, bool) {};
};

/// Reports what the machine's own feed reports (guest, VMM and discards) without the pages that the
/// mutation loses.
class LossyTracker final : public DirtyTracker {
public:
    LossyTracker(DirtyFeed& feed, const bool& frozen, Mutation mutation)
        : feed_(feed), frozen_(frozen), mutation_(std::move(mutation)) {}

    [[nodiscard]] std::string_view name() const override { return feed_.tracker_name(); }
    Status start() override {
        subscription_ = TRY(feed_.subscribe());
        return {};
    }
    Status arm(std::size_t block, std::uint64_t first, std::uint64_t count) override {
        return feed_.arm(block, first, count);
    }
    Status collect(DirtySet& into) override {
        std::exchange(mutation_.before_first_collect, [] {})();
        TRY(feed_.collect());
        mutation_.lose(subscription_->pages(), frozen_);
        into.add(subscription_->pages());
        subscription_->pages().clear();
        return {};
    }
    Status peek(DirtySet& into) override { return feed_.peek(into); }
    void stop() override { subscription_.reset(); }

private:
    DirtyFeed& feed_;
    const bool& frozen_;
    Mutation mutation_;
    std::unique_ptr<DirtyFeed::Subscription> subscription_;
};

class LossySource final : public SnapshotSource {
public:
    LossySource(Machine& machine, Mutation mutation)
        : inner_(machine),
          before_freeze_(mutation.before_freeze),
          feed_(machine.memory(), std::make_unique<LossyTracker>(*machine.dirty(), frozen_, std::move(mutation))) {}

    [[nodiscard]] const MachineConfig& config() const override { return inner_.config(); }
    Status quiesce(const std::function<Status()>& check_cancelled) override { return inner_.quiesce(check_cancelled); }
    void unquiesce() override { inner_.unquiesce(); }
    Result<SteadyClock::time_point> freeze() override {
        before_freeze_();
        const auto since = TRY(inner_.freeze());
        frozen_ = true;
        return since;
    }
    std::chrono::steady_clock::time_point thaw() override {
        frozen_ = false;
        return inner_.thaw();
    }
    Result<SavedMachine> save() override { return inner_.save(); }
    [[nodiscard]] const GuestMemory& memory() const override { return inner_.memory(); }
    [[nodiscard]] DirtyFeed* dirty() override { return &feed_; }
    // The guest is not asked for free pages, so that all pages count.
    [[nodiscard]] bool can_tell_free_pages() const override { return false; }
    void add_free_pages(DirtySet& /*into*/) override {}
    Result<std::uint64_t> release_free(std::uint64_t max_bytes,
                                       const std::function<Status()>& check_cancelled) override {
        return inner_.release_free(max_bytes, check_cancelled);
    }
    void give_back() override { inner_.give_back(); }

private:
    MachineSnapshotSource inner_;
    std::function<void()> before_freeze_;
    bool frozen_ = false;
    DirtyFeed feed_;
};

void forget(DirtySet& pages, std::uint64_t page) { pages.words(0)[page / 64] &= ~(1ULL << page % 64); }

class LiveMutations : public KvmTest, public ::testing::WithParamInterface<DirtyTracking> {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        const kvm::Capabilities& caps = system().capabilities();
        if (GetParam() == DirtyTracking::ring ? caps.dirty_ring == 0 : caps.manual_dirty_log == 0) {
            GTEST_SKIP() << "this KVM has no dirty " << (GetParam() == DirtyTracking::ring ? "ring" : "log");
        }
    }
    void boot(const std::string& cmdline = "ws=2M rate=0 stir=24M") {
        machine_ = boot_ledger({.cpus = 1, .cmdline = cmdline, .host = {.dirty = GetParam()}});
        root_ = need(machine_->memory().load<ledger::Root>(Gpa{ledger::kRootAddress}));
        stir_first_ = root_.stir / kPageSize;
        stir_pages_ = root_.stir_pages;
        ASSERT_EQ(machine_->memory().blocks()[0].spec().base.value, 0U);
        own_page_ = machine_->memory().blocks()[0].spec().pages() - 1;  // the guest does not use it
    }

    SnapshotReport take(Mutation mutation) {
        LossySource source(*machine_, std::move(mutation));
        return need(write_snapshot(source, area(), options_));
    }
    /// Returns whether the ledger in a snapshot of a random moment contradicts itself.
    bool found_at_a_moment(const Mutation& mutation) {
        run_a_while(10ms);
        (void)take(mutation);
        return !check_ledger(need(open_snapshot(area())).memory).empty();
    }
    /// Returns whether it does at some moment. On a busy host the guest may get so little time that
    /// many moments have no page to lose.
    bool found(const Mutation& mutation) {
        for (const auto until = soon(); SteadyClock::now() < until;) {
            if (found_at_a_moment(mutation)) {
                return true;
            }
        }
        return false;
    }
    /// Returns a stirred page from the middle of a set. It is not the newest one: a snapshot
    /// without the last write is a valid moment too (ledger_format.h).
    [[nodiscard]] std::optional<std::uint64_t> middle_stirred(const DirtySet& pages) const {
        std::vector<std::uint64_t> stirred;
        for (std::uint64_t page = stir_first_; page < stir_first_ + stir_pages_; ++page) {
            if (pages.has(0, page)) {
                stirred.push_back(page);
            }
        }
        return stirred.size() > 2 ? std::optional(stirred[stirred.size() / 2]) : std::nullopt;
    }
    /// Returns how often the guest has written to the stirred region.
    [[nodiscard]] std::uint64_t stirred() const {
        return need(machine_->memory().load<ledger::ShardHeader>(Gpa{ledger::header_address(root_, 0)})).stirred;
    }
    [[nodiscard]] Gpa own_page() const { return Gpa{own_page_ * kPageSize}; }
    std::uint64_t own_value_in_snapshot() {
        return need(need(open_snapshot(area())).memory.load<std::uint64_t>(own_page()));
    }

    std::unique_ptr<Machine> machine_;
    ledger::Root root_{};
    std::uint64_t stir_first_ = 0;
    std::uint64_t stir_pages_ = 0;
    std::uint64_t own_page_ = 0;
    WriteOptions options_;
};

TEST_P(LiveMutations, WithoutOneEveryMomentIsWhole) {
    boot();
    for (int moment = 0; moment < 6; ++moment) {
        EXPECT_FALSE(found_at_a_moment({})) << moment;
    }
    expect_sound_end(*machine_);
}

// The page is lost from its first report on. It was copied before that and written since.
TEST_P(LiveMutations, APageThatTheTrackerNeverReportsIsFound) {
    boot();
    std::optional<std::uint64_t> lost;
    Mutation mutation;
    mutation.before_first_collect = [&] { lost.reset(); };
    mutation.lose = [&](DirtySet& found, bool) {
        if (!lost) {
            lost = middle_stirred(found);
        }
        if (lost) {
            forget(found, *lost);
        }
    };
    EXPECT_TRUE(found(mutation));
    expect_sound_end(*machine_);
}

// The hardest case: one page is lost in one collect. That matters only if the page was copied
// before and is written in the last moment; a page that the last collect before the pause still
// has to copy is copied anyway. So the guest is held to 16 pages a tick, and takes 19 seconds for
// all of its region. Rounds are quicker than that under ThreadSanitizer, which slows the VMM and
// not the guest, and on an emulated host that shares its processors with two others.
TEST_P(LiveMutations, APageLostOnceInThePauseIsFound) {
    boot("ws=2M hz=20 stir=24M stirrate=320");
    options_.live.max_pause = 10s;  // rounds always fit, so no further one is made
    Mutation mutation;
    // Some ticks, each with its writes: on a busy host they take long.
    mutation.before_freeze = [&] {
        const std::uint64_t before = stirred();
        EXPECT_TRUE(eventually([&] { return stirred() >= before + 2 * 16; }));
    };
    mutation.lose = [&](DirtySet& found, bool frozen) {
        if (const auto lost = middle_stirred(found); lost && frozen) {
            forget(found, *lost);
        }
    };
    EXPECT_TRUE(found(mutation));
    expect_sound_end(*machine_);
}

TEST_P(LiveMutations, AWriteOfTheVmmThatIsNotRecordedIsFound) {
    boot();
    for (const bool recorded : {true, false}) {
        need(machine_->memory().store<std::uint64_t>(own_page(), 1));
        Mutation mutation;
        mutation.before_first_collect = [&] { need(machine_->memory().store<std::uint64_t>(own_page(), 2)); };
        if (!recorded) {
            mutation.lose = [&](DirtySet& found, bool) { forget(found, own_page_); };
        }
        (void)take(std::move(mutation));
        EXPECT_EQ(own_value_in_snapshot(), recorded ? 2U : 1U);
    }
    expect_sound_end(*machine_);
}

TEST_P(LiveMutations, ADiscardThatIsNotRecordedIsFound) {
    boot();
    MemoryBlock& block = machine_->memory().blocks()[0];
    for (const bool recorded : {true, false}) {
        block.set_type(own_page_, PageType::normal);
        need(machine_->memory().store<std::uint64_t>(own_page(), 1));
        Mutation mutation;
        mutation.before_first_collect = [&] {
            ASSERT_EQ(::madvise(block.host() + own_page_ * kPageSize, kPageSize, MADV_DONTNEED), 0);
            block.set_type(own_page_, PageType::balloon);
        };
        if (!recorded) {
            mutation.lose = [&](DirtySet& found, bool) { forget(found, own_page_); };
        }
        const SnapshotReport report = take(std::move(mutation));
        EXPECT_EQ(report.pages[static_cast<std::size_t>(PageClass::balloon)], recorded ? 1U : 0U);
        EXPECT_EQ(own_value_in_snapshot(), recorded ? 0U : 1U);
    }
    expect_sound_end(*machine_);
}

INSTANTIATE_TEST_SUITE_P(By, LiveMutations, ::testing::Values(DirtyTracking::log, DirtyTracking::ring),
                         [](const auto& test) { return test.param == DirtyTracking::ring ? "Ring" : "Log"; });

}  // namespace
}  // namespace snapvm::test
