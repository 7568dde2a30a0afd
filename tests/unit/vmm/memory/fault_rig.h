// SPDX-License-Identifier: Apache-2.0
// Memory with a fault service, uses whose answers the test chooses, and threads that run into
// faults. Needs a userfaultfd and no /dev/kvm.
#pragma once

#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/need.h"
#include "vmm/memory/fault_service.h"
#include "vmm/memory/guest_memory.h"

namespace snapvm::test {

inline constexpr std::uint64_t kPages = 1024;  // of the first block
inline constexpr std::uint64_t kProtectable = UFFD_FEATURE_PAGEFAULT_FLAG_WP;

inline std::byte contents_of(std::uint64_t page) { return static_cast<std::byte>(page % 250 + 1); }
inline std::vector<std::byte> arriving(std::uint64_t page) {
    return std::vector<std::byte>(kPageSize, contents_of(page));
}

/// A use whose answer the test chooses. Counts what it is asked.
class TestUse final : public FaultHandler {
public:
    using Answer = std::function<Result<bool>(TestUse&, const Fault&)>;
    TestUse(const GuestMemory& memory, Answer how) : use(memory.faults(), *this), how_(std::move(how)) {}

    [[nodiscard]] std::vector<std::uint64_t> pages(FaultKind kind) const {
        const std::lock_guard lock(mutex_);
        std::vector<std::uint64_t> found;
        for (const Fault& fault : asked_) {
            if (fault.kind == kind) {
                found.push_back(fault.page);
            }
        }
        return found;
    }
    [[nodiscard]] std::size_t asked() const {
        const std::lock_guard lock(mutex_);
        return asked_.size();
    }
    [[nodiscard]] int failures() const { return failures_; }

private:
    Result<bool> answer(const Fault& fault) override {
        {
            const std::lock_guard lock(mutex_);
            asked_.push_back(fault);
        }
        return how_(*this, fault);
    }
    void failed(const Error& /*error*/) override { ++failures_; }

    mutable std::mutex mutex_;
    std::vector<Fault> asked_;
    std::atomic<int> failures_ = 0;

public:
    FaultUse use;

private:
    Answer how_;
};

inline Result<bool> bring(TestUse& self, const Fault& fault) {
    const Status filled = self.use.fill({fault.block, fault.page, 1}, arriving(fault.page));
    return filled ? Result<bool>(true) : fail(filled.error());
}
inline Result<bool> let_write(TestUse& self, const Fault& fault) {
    const Status released = self.use.release({fault.block, fault.page, 1});
    return released ? Result<bool>(true) : fail(released.error());
}
inline Result<bool> leave(TestUse& /*self*/, const Fault& /*fault*/) { return true; }
inline Result<bool> pass(TestUse& /*self*/, const Fault& /*fault*/) { return false; }

/// A thread that does something to memory and may wait in a page fault meanwhile.
class Toucher {
public:
    explicit Toucher(std::function<void()> what)
        : thread_([this, what = std::move(what)] {
              thread_id_ = ::gettid();
              what();
              done_ = true;
          }) {}
    Toucher(const Toucher&) = delete;
    Toucher& operator=(const Toucher&) = delete;
    ~Toucher() { thread_.join(); }

    [[nodiscard]] bool done() const { return done_; }
    /// Returns whether the thread comes to wait in a page fault. Its fault may not have been read
    /// yet.
    [[nodiscard]] bool waits() const {
        return eventually([this] {
            const std::string folder = "/proc/self/task/" + std::to_string(thread_id_);
            const std::string line = contents(folder + "/stat");
            const auto name_end = line.rfind(')');
            const bool sleeps = name_end != std::string::npos && name_end + 2 < line.size() &&
                                (line[name_end + 2] == 'S' || line[name_end + 2] == 'D');
            // Where it sleeps; "0" if the kernel does not tell.
            const std::string where = contents(folder + "/wchan");
            return thread_id_ != 0 && sleeps && (where == "0" || where.find("userfault") != std::string::npos);
        });
    }

private:
    static std::string contents(const std::string& path) {
        std::ifstream file(path);
        return {std::istreambuf_iterator<char>(file), {}};
    }

    std::atomic<pid_t> thread_id_ = 0;
    std::atomic<bool> done_ = false;
    std::thread thread_;
};

class FaultServiceTest : public ::testing::Test {
protected:
    void SetUp() override {
        TestUse probe(*memory_, pass);
        if (const Status begun = probe.use.begin(protect_all()); !begun) {
            GTEST_SKIP() << "userfaultfd cannot be used here: " << begun.error().message();
        }
    }
    static GuestMemory make_memory() {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(
            *MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, kPages * kPageSize}, PagePolicy::small_pages));
        blocks.push_back(
            *MemoryBlock::anonymous({BlockId::ram_high, Gpa{1ULL << 32}, 64 * kPageSize}, PagePolicy::small_pages));
        return *GuestMemory::of(std::move(blocks));
    }
    static FaultUseSpec protect_all() {
        return {.kinds = FaultKind::write_protect, .features = kProtectable, .ranges = {{0, 0, kPages}, {1, 0, 64}}};
    }
    static FaultUseSpec missing(std::vector<PageRange> ranges, int order = 0) {
        return {.order = order, .kinds = FaultKind::missing, .features = kProtectable, .ranges = std::move(ranges)};
    }
    [[nodiscard]] std::byte* at(std::uint64_t page, std::size_t block = 0) const {
        return memory_->blocks()[block].host() + page * kPageSize;
    }
    void populate(std::uint64_t first, std::uint64_t count) const {
        for (std::uint64_t page = first; page < first + count; ++page) {
            std::memset(at(page), static_cast<int>(contents_of(page)), kPageSize);
        }
    }
    // Like a vCPU's accesses, these are no races to ThreadSanitizer.
    __attribute__((no_sanitize("thread"))) static void write(std::byte* to, std::byte value) {
        *const_cast<volatile std::byte*>(to) = value;
    }
    __attribute__((no_sanitize("thread"))) static std::byte read(const std::byte* from) {
        return *const_cast<const volatile std::byte*>(from);
    }

    std::optional<GuestMemory> memory_ = make_memory();
};

}  // namespace snapvm::test
