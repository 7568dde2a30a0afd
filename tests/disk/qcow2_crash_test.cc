// SPDX-License-Identifier: Apache-2.0
// qcow2 images after failed calls and power losses, with qemu-img as the judge.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <random>

#include "tests/disk/qcow2_disk.h"

namespace snapvm::disk {
namespace {

using namespace test_rig;
using test::is_clean;

/// What each sector may be after a power loss.
class History {
public:
    explicit History(const Bytes& disk) : last_(disk), durable_(disk), since_(disk.size() / kSector) {}
    void may_become(std::uint64_t offset, const Bytes& bytes) {
        for (std::uint64_t at = 0; at < bytes.size(); at += kSector) {
            const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
            since_[(offset + at) / kSector].emplace_back(from, from + kSector);
        }
        std::ranges::copy(bytes, last_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    // The last requests are durable, if none of them failed.
    void flushed() {
        durable_ = last_;
        since_.assign(since_.size(), {});
    }
    [[nodiscard]] ::testing::AssertionResult allows(const Bytes& disk) const {
        for (std::uint64_t at = 0; at < disk.size(); at += kSector) {
            const auto now = disk.begin() + static_cast<std::ptrdiff_t>(at);
            const std::vector<Bytes>& others = since_[at / kSector];
            const bool same = std::equal(now, now + kSector, durable_.begin() + static_cast<std::ptrdiff_t>(at));
            if (!same && std::ranges::none_of(
                             others, [&](const Bytes& one) { return std::equal(one.begin(), one.end(), now); })) {
                return ::testing::AssertionFailure() << "the sector at " << at << " is what it never was";
            }
        }
        return ::testing::AssertionSuccess();
    }

private:
    Bytes last_;
    Bytes durable_;
    std::vector<std::vector<Bytes>> since_;
};

// Executes one request. It may fail, and then each of its sectors may be new or old, also after a
// later flush.
bool play_one(Opened& opened, Request& request, History& history) {
    const Status status = opened.run(execute(opened.image(), request));
    if (request.kind == Request::Kind::write) {
        history.may_become(request.offset, request.bytes);
    } else if (request.kind != Request::Kind::read) {
        history.may_become(request.offset, Bytes(request.size));
    }
    return status.has_value();
}

std::vector<Case> crash_cases() {
    std::vector<Case> chosen;
    for (const Case& one : cases()) {
        for (const char* const name : {"clusters_512", "plain", "subclusters_16K", "on_shorter_raw", "version_2_512",
                                       "preallocated", "on_zlib"}) {
            if (one.name == name) {
                chosen.push_back(one);
                chosen.back().size = std::min<std::uint64_t>(one.size, 1U << 20);
                chosen.back().behind_size = std::min<std::uint64_t>(one.behind_size, (512U << 10) + kSector);
            }
        }
    }
    return chosen;
}

Request random_change(std::uint64_t size, std::mt19937_64& random) {
    Request request;
    do {
        request = random_request(0, size, random);
    } while (request.kind == Request::Kind::read || request.kind == Request::Kind::discard);
    return request;
}

class Qcow2Failure : public ::testing::TestWithParam<Case> {};

TEST_P(Qcow2Failure, AFailedCallLosesNothingThatWasFlushed) {
    SNAPVM_REQUIRE_QEMU_IMG();
    for (std::uint64_t failing = 0; failing < 36; ++failing) {
        SCOPED_TRACE(failing);
        std::mt19937_64 random(5);
        const auto disk = make_disk(GetParam(), random);
        History history(disk->model);
        bool armed = false;
        bool failed = false;
        bool flush_failed = false;
        std::uint64_t calls = 0;
        const std::uint64_t which = failing * 2;
        bool sound = true;
        {
            Opened opened(disk->chain, {.metadata_bytes = 32768}, [&](const io::Request& request) {
                const bool now = armed && calls++ == which;
                failed |= now;
                flush_failed |= now && request.kind == io::Request::Kind::flush;
                return io::Fault{.error = now ? EIO : 0};
            });
            ASSERT_TRUE(ok(opened.status()));
            armed = true;
            for (unsigned i = 0; i < 24; ++i) {
                Request request = random_change(disk->model.size(), random);
                sound &= play_one(opened, request, history);
                if (i % 6 == 5 && opened.run(opened->flush()) && sound) {
                    history.flushed();
                }
            }
            armed = false;
            const Status last = opened.run(opened->flush());
            if (!flush_failed) {  // what a flush has lost stays lost
                ASSERT_TRUE(ok(last));
            }
        }
        EXPECT_TRUE(is_clean(disk->chain.front().path, /*leaks_allowed=*/true));
        Opened again(disk->chain, {.read_only = true});
        ASSERT_TRUE(ok(again.status()));
        ASSERT_TRUE(history.allows(again.read(0, disk->model.size())));
        if (!failed) {
            break;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Images, Qcow2Failure, ::testing::ValuesIn(crash_cases()),
                         [](const auto& one) { return one.param.name; });

/// A call that changes the file, as the device gets it.
struct Change {
    enum class Kind : std::uint8_t { write, clear, flush };
    Kind kind{};
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    Bytes bytes;
};

Change change_of(const io::Request& request) {
    Change change{.kind = Change::Kind::write, .offset = request.offset, .size = request.size, .bytes = {}};
    switch (request.kind) {
        case io::Request::Kind::flush: change.kind = Change::Kind::flush; break;
        case io::Request::Kind::write:
            for (const iovec& part : request.buffers) {
                const auto* const bytes = static_cast<const std::byte*>(part.iov_base);
                change.bytes.insert(change.bytes.end(), bytes, bytes + part.iov_len);
            }
            break;
        case io::Request::Kind::read:
        case io::Request::Kind::allocate:
        case io::Request::Kind::discard: change.kind = Change::Kind::clear; break;
    }
    return change;
}

void apply(const Change& change, Bytes& file) {
    if (change.kind == Change::Kind::flush) {
        return;
    }
    if (change.kind == Change::Kind::write) {
        file.resize(std::max<std::size_t>(file.size(), change.offset + change.bytes.size()));
        std::ranges::copy(change.bytes, file.begin() + static_cast<std::ptrdiff_t>(change.offset));
    } else if (change.offset < file.size()) {
        std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(change.offset),
                    std::min(change.size, file.size() - change.offset), kZero);
    }
}

// Returns the file as a power loss leaves it: with all that was flushed, and any of the rest.
Bytes after_power_loss(Bytes file, const std::vector<Change>& changes, std::mt19937_64& random) {
    std::size_t durable = 0;
    for (std::size_t i = 0; i < changes.size(); ++i) {
        durable = changes[i].kind == Change::Kind::flush ? i : durable;
    }
    for (std::size_t i = 0; i < changes.size(); ++i) {
        if (i < durable || random() % 2 == 0) {
            apply(changes[i], file);
        }
    }
    // The file's size is what is written.
    file.resize((file.size() + kSector - 1) / kSector * kSector);
    return file;
}

class Qcow2PowerLoss : public ::testing::TestWithParam<Case> {};

// A flush is taken as done when it begins: each request of this test runs alone, and the order of
// calls within a commit is that of the driver.
TEST_P(Qcow2PowerLoss, LeavesASoundImageWithAllThatWasFlushed) {
    SNAPVM_REQUIRE_QEMU_IMG();
    for (unsigned seed = 1; seed <= 3; ++seed) {
        std::mt19937_64 random(seed);
        const auto disk = make_disk(GetParam(), random);
        const std::string& path = disk->chain.front().path;
        const Bytes begin = read_file(path);
        std::vector<Change> changes;
        std::vector<std::pair<std::size_t, History>> moments;  // after how many changes, and what may be
        {
            Opened opened(disk->chain, {.metadata_bytes = 32768}, [&](const io::Request& request) {
                if (request.kind != io::Request::Kind::read) {
                    changes.push_back(change_of(request));
                }
                return io::Fault{};
            });
            ASSERT_TRUE(ok(opened.status()));
            History history(disk->model);
            for (unsigned i = 0; i < 30; ++i) {
                Request request = random_change(disk->model.size(), random);
                const std::size_t before = changes.size();
                ASSERT_TRUE(play_one(opened, request, history));
                // Also in the middle of it.
                moments.emplace_back(before + random() % (changes.size() - before + 1), history);
                if (i % 5 == 4) {
                    const std::size_t flushing = changes.size();
                    ASSERT_TRUE(ok(opened.run(opened->flush())));
                    for (std::size_t at = flushing; at < changes.size(); ++at) {
                        moments.emplace_back(at, history);
                    }
                    history.flushed();
                    moments.emplace_back(changes.size(), history);
                }
            }
        }
        const std::string lost = disk->folder.file("lost.qcow2");
        std::vector<Link> chain = disk->chain;
        chain.front().path = lost;
        for (std::size_t i = 0; i < moments.size(); i += 1 + moments.size() / 30) {
            const auto& [count, history] = moments[i];
            SCOPED_TRACE("seed " + std::to_string(seed) + " after " + std::to_string(count));
            const std::vector<Change> seen(changes.begin(), changes.begin() + static_cast<std::ptrdiff_t>(count));
            write_file(lost, after_power_loss(begin, seen, random));
            ASSERT_TRUE(is_clean(lost, /*leaks_allowed=*/true));
            Opened again(chain, {.read_only = true});
            ASSERT_TRUE(ok(again.status()));
            ASSERT_TRUE(history.allows(again.read(0, disk->model.size())));
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Images, Qcow2PowerLoss, ::testing::ValuesIn(crash_cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace snapvm::disk
