// SPDX-License-Identifier: Apache-2.0
// A machine that is only memory and records, and a folder for its areas, so that snapshots are
// tested without /dev/kvm.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "snapshot/area/area.h"
#include "snapshot/restore/restore.h"
#include "snapshot/source/source.h"
#include "snapshot/write/write_snapshot.h"
#include "vmm/base/try.h"
#include "vmm/memory/dirty_feed.h"

namespace snapvm::test {

/// Fails the test with the error's message if a Result is an error.
#define ASSERT_OK(expression)                                                \
    do {                                                                     \
        const auto& ok_result_ = (expression);                               \
        ASSERT_TRUE(ok_result_.has_value()) << ok_result_.error().message(); \
    } while (false)

/// Reports no writes of its own. A fake guest marks its writes itself (write_marks.h).
class NoTracker final : public DirtyTracker {
public:
    [[nodiscard]] std::string_view name() const override { return "fake"; }
    Status start() override { return {}; }
    Status arm(std::size_t /*block*/, std::uint64_t /*first*/, std::uint64_t /*count*/) override { return {}; }
    Status collect(DirtySet& /*into*/) override { return {}; }
    Status peek(DirtySet& /*into*/) override { return {}; }
    void stop() override {}
};

class FakeMachine final : public SnapshotSource {
public:
    explicit FakeMachine(std::uint64_t memory_bytes = 8ULL << 20, std::uint32_t cpus = 1) {
        config_.memory_bytes = memory_bytes;
        config_.cpus = cpus;
        config_.kernel = "builtin:fake";
        config_.machine_id.bytes.fill(7);
        for (const auto& [kind, instance] : record_owners(config_)) {  // the clock's is the first
            const std::size_t size = kind == RecordKind::vcpu ? 7000 : 24;
            records_.push_back({kind, 1, instance, std::vector<std::byte>(size, static_cast<std::byte>(instance + 1))});
        }
        std::vector<MemoryBlock> blocks;
        for (const BlockSpec& spec : config_.blocks()) {
            blocks.push_back(*MemoryBlock::anonymous(spec, PagePolicy::small_pages));
        }
        memory_ = *GuestMemory::of(std::move(blocks));
    }
    /// Builds the machine as a restore does.
    explicit FakeMachine(RestoredSnapshot restored)
        : config_(restored.saved.config),
          records_(std::move(restored.saved.records)),
          memory_(std::move(restored.memory)) {}

    [[nodiscard]] const MachineConfig& config() const override { return config_; }
    Status quiesce(const std::function<Status()>& check_cancelled) override {
        if (on_quiesce) {
            TRY(on_quiesce(check_cancelled));
        }
        ++quiesced;
        return {};
    }
    void unquiesce() override { --quiesced; }
    Result<std::chrono::steady_clock::time_point> freeze() override {
        const auto asked = std::chrono::steady_clock::now();
        if (fail_freeze) {
            return fail(ErrorKind::system, "freeze failed");
        }
        if (on_freeze) {
            on_freeze();
        }
        ++frozen;
        return asked;
    }
    std::chrono::steady_clock::time_point thaw() override {
        --frozen;
        ++thaws;
        if (give_back_waits) {
            thawing = true;
            give_back();
            thawing = false;
        }
        if (on_thaw) {
            on_thaw();
        }
        thawed_at = std::chrono::steady_clock::now();
        return thawed_at;
    }
    Result<SavedMachine> save() override {
        if (fail_save) {
            return fail(ErrorKind::system, "save failed");
        }
        return SavedMachine{config_, records_};
    }
    [[nodiscard]] const GuestMemory& memory() const override { return memory_; }
    [[nodiscard]] DirtyFeed* dirty() override { return &feed_; }
    [[nodiscard]] bool can_tell_free_pages() const override { return on_asked_for_free_pages != nullptr; }
    void add_free_pages(DirtySet& into) override { on_asked_for_free_pages(into); }
    Result<std::uint64_t> release_free(std::uint64_t max_bytes,
                                       const std::function<Status()>& check_cancelled) override {
        auto released = on_release ? on_release(max_bytes, check_cancelled) : Result<std::uint64_t>(0);
        lent = released.has_value() && *released > 0;
        return released;
    }
    void give_back() override {
        give_back_waits = frozen > 0;
        if (!give_back_waits && lent.exchange(false) && on_give_back) {
            on_give_back();
        }
    }
    GuestMemory& mutable_memory() { return memory_; }
    std::vector<StateRecord>& records() { return records_; }

    MemoryBlock& block(BlockId id) { return *memory_.find(id); }
    /// Fills a page with contents made from its place and `generation`.
    void fill(BlockId id, std::uint64_t page, std::uint64_t generation) {
        std::byte* at = block(id).host() + page * kPageSize;
        std::uint64_t value = (static_cast<std::uint64_t>(id) << 48) ^ (page << 20) ^ generation;
        for (std::size_t i = 0; i < kPageSize; i += sizeof value) {
            value = value * 6364136223846793005ULL + 1442695040888963407ULL;
            std::memcpy(at + i, &value, sizeof value);
        }
        block(id).marks().mark(page, 1);
    }
    /// Populates a page with zeros.
    void clear(BlockId id, std::uint64_t page) {
        std::memset(block(id).host() + page * kPageSize, 0, kPageSize);
        block(id).marks().mark(page, 1);
    }

    std::atomic<int> frozen = 0;
    std::atomic<int> thaws = 0;
    std::atomic<int> quiesced = 0;
    std::function<Status(const std::function<Status()>& check_cancelled)>
        on_quiesce;  ///< returns when the devices have no request in flight
    std::function<void()> on_freeze;  ///< returns when the guest no longer writes
    std::function<void()> on_thaw;
    std::chrono::steady_clock::time_point thawed_at;  ///< time of the last thaw
    std::function<void(DirtySet&)> on_asked_for_free_pages;  ///< null: the guest cannot be asked
    std::function<Result<std::uint64_t>(std::uint64_t max_bytes, const std::function<Status()>& check_cancelled)>
        on_release;
    std::function<void()> on_give_back;  ///< called when released memory is given back
    bool give_back_waits = false;  ///< giving back waits for the thaw
    bool thawing = false;
    std::atomic<bool> lent = false;  ///< memory is released
    bool fail_freeze = false;
    bool fail_save = false;

private:
    MachineConfig config_;
    std::vector<StateRecord> records_;
    GuestMemory memory_;
    DirtyFeed feed_{memory_, std::make_unique<NoTracker>()};
};

/// Makes a private folder, which is removed after the test.
class SnapshotTest : public ::testing::Test {
protected:
    void SetUp() override { make_folder(std::filesystem::temp_directory_path()); }
    void make_folder(const std::filesystem::path& parent) {
        std::string pattern = (parent / "snapvm-test-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder_ = pattern;
    }
    void TearDown() override {
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    [[nodiscard]] AreaPath area(const std::string& name = "area") const { return {(folder_ / name).string(), 0}; }

    static WriteOptions with_slots(std::uint32_t slots) {
        WriteOptions options;
        options.slots = slots;
        return options;
    }

    std::filesystem::path folder_;
};

/// Expects that all pages of two memories are the same.
inline void expect_same_memory(FakeMachine& a, FakeMachine& b) {
    ASSERT_EQ(a.memory().blocks().size(), b.memory().blocks().size());
    for (std::size_t i = 0; i < a.memory().blocks().size(); ++i) {
        const MemoryBlock& x = a.memory().blocks()[i];
        const MemoryBlock& y = b.memory().blocks()[i];
        ASSERT_EQ(x.spec(), y.spec());
        for (std::uint64_t page = 0; page < x.spec().pages(); ++page) {
            ASSERT_EQ(std::memcmp(x.page(page).data(), y.page(page).data(), kPageSize), 0)
                << "block " << name_of(x.spec().id) << " page " << page;
        }
    }
}

}  // namespace snapvm::test
