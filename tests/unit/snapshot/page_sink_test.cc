// SPDX-License-Identifier: Apache-2.0
// Writes of page data, with both engines: they land, short ones are continued, and the first error
// stays.
#include "snapshot/write/page_sink.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <random>

#include "tests/support/need.h"
#include "tests/support/result_matchers.h"
#include "vmm/base/fd.h"

namespace snapvm {
namespace {

using test::fails;
using test::need;
using test::ok;
using Bytes = std::vector<std::byte>;

constexpr std::size_t kWrite = 8192;
constexpr std::size_t kWrites = 5 * PageSink::kMaxInFlight / 2;

class PageSinks : public ::testing::TestWithParam<io::EngineKind> {
protected:
    PageSinks() {
        std::mt19937 random(7);
        std::ranges::generate(data_, [&] { return static_cast<std::byte>(random()); });
    }
    [[nodiscard]] std::unique_ptr<PageSink> sink(IoHook hook = {}) const {
        return need(PageSink::open({file_.get(), "the area", std::move(hook)}, GetParam()));
    }
    [[nodiscard]] std::span<const std::byte> part(std::size_t index) const {
        return std::span(data_).subspan(index * kWrite, kWrite);
    }
    void expect_written() const {
        Bytes back(data_.size());
        EXPECT_TRUE(ok(read_exactly_at(file_.get(), back, 0, "file")));
        EXPECT_TRUE(back == data_);
    }

    UniqueFd file_{::memfd_create("area", MFD_CLOEXEC)};
    Bytes data_ = Bytes(kWrite * kWrites);
};

TEST_P(PageSinks, MoreThanAreInFlightAtOnceAllLand) {
    const auto out = sink();
    for (std::size_t i = kWrites; i-- > 0;) {
        EXPECT_TRUE(ok(out->write(part(i), i * kWrite)));
    }
    EXPECT_TRUE(ok(out->drain()));
    expect_written();
    EXPECT_TRUE(ok(out->drain())) << "nothing is left";
}

TEST_P(PageSinks, ShortWritesAreContinued) {
    std::size_t seen = 0;
    const auto out = sink([&](const IoEvent& event) {
        EXPECT_EQ(event.step, IoStep::pages);
        ++seen;
        return io::Fault{0, event.size > 3000 ? 3000U : 0U};
    });
    for (std::size_t i = 0; i < kWrites; ++i) {
        EXPECT_TRUE(ok(out->write(part(i), i * kWrite)));
    }
    EXPECT_TRUE(ok(out->drain()));
    expect_written();
    EXPECT_EQ(seen, 3 * kWrites) << "each write in three parts";
}

TEST_P(PageSinks, TheFirstErrorAtEachStepStays) {
    for (const int error : {ENOSPC, EIO}) {
        for (std::size_t step = 0; step < kWrites; ++step) {
            const auto out = sink([&, seen = std::size_t{0}](const IoEvent&) mutable {
                return io::Fault{seen++ == step ? error : 0, 0};
            });
            for (std::size_t i = 0; i < kWrites; ++i) {
                EXPECT_EQ(out->write(part(i), i * kWrite).has_value(), i < step) << "error at " << step;
            }
            for (int again = 0; again < 2; ++again) {
                const Status drained = out->drain();
                EXPECT_TRUE(fails(drained, ErrorKind::system, "the area"));
                EXPECT_EQ(drained ? 0 : drained.error().code(), error);
            }
        }
    }
}

TEST_P(PageSinks, AFullDiskIsTold) {
    file_ = UniqueFd(::open("/dev/full", O_WRONLY | O_CLOEXEC));
    const auto out = sink();
    (void)out->write(part(0), 0);  // tells it already, or drain() does
    const Status drained = out->drain();
    EXPECT_TRUE(fails(drained, ErrorKind::system, "the area"));
    EXPECT_EQ(drained ? 0 : drained.error().code(), ENOSPC);
    EXPECT_FALSE(out->write(part(1), kWrite).has_value());
}

INSTANTIATE_TEST_SUITE_P(Both, PageSinks, ::testing::Values(io::EngineKind::uring, io::EngineKind::threads),
                         [](const auto& kind) { return kind.param == io::EngineKind::uring ? "Uring" : "Threads"; });

}  // namespace
}  // namespace snapvm
