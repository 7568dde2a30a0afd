// SPDX-License-Identifier: Apache-2.0
// The tests' own way to run programs: a failure leaves no descriptor open.
#include "tests/support/command.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <iterator>

#include "vmm/base/fd.h"

namespace snapvm::test {
namespace {

auto open_descriptors() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
}

// While it lives, `more` descriptors more can be opened.
class FewDescriptors {
public:
    explicit FewDescriptors(rlim_t more) {
        const UniqueFd lowest(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
        rlimit few = before_;
        few.rlim_cur = static_cast<rlim_t>(lowest.get()) + more;
        EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    }
    FewDescriptors(const FewDescriptors&) = delete;
    FewDescriptors& operator=(const FewDescriptors&) = delete;
    ~FewDescriptors() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

private:
    rlimit before_{};
};

TEST(Command, KeepsWhatAProgramSays) {
    const auto before = open_descriptors();
    const CommandResult result = run_program({"sh", "-c", "cat; echo err >&2; exit 3"}, "in");
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_EQ(result.out, "in");
    EXPECT_EQ(result.err, "err\n");
    EXPECT_EQ(open_descriptors(), before);
}

TEST(Command, AProgramThatCannotBeStartedLeavesNothingOpen) {
    const auto before = open_descriptors();
    for (int i = 0; i < 10; ++i) {
        const CommandResult result = run_program({"/nowhere/program"});
        EXPECT_EQ(result.exit_code, -1);
        EXPECT_EQ(result.err, "/nowhere/program cannot be started");
    }
    EXPECT_EQ(open_descriptors(), before);
}

TEST(Command, TooFewDescriptorsForItsPipesLeaveNothingOpen) {
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    GTEST_SKIP()
        << "UBSan checks a virtual pointer through a pipe of its own, and finds it bad where none can be opened";
#endif
#endif
    const auto before = open_descriptors();
    for (rlim_t more = 0; more < 6; ++more) {
        CommandResult result;
        {
            const FewDescriptors few(more);
            result = run_program({"true"});
        }
        EXPECT_EQ(result.exit_code, -1) << more;
        EXPECT_NE(result.err.find("Too many open files"), std::string::npos) << more << ": " << result.err;
    }
    EXPECT_EQ(open_descriptors(), before);
    EXPECT_EQ(run_program({"true"}).exit_code, 0);
}

}  // namespace
}  // namespace snapvm::test
