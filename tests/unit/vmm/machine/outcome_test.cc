// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/outcome.h"

#include <gtest/gtest.h>

namespace snapvm {
namespace {

// Scripts rely on these.
TEST(Outcome, ExitCodesAndNames) {
    using Kind = Outcome::Kind;
    const struct {
        Kind kind;
        int exit_code;
        std::string_view name;
    } rows[] = {{Kind::power_off, 0, "power-off"}, {Kind::reboot, 0, "reboot"},
                {Kind::guest_exit, 33, "exit"},    {Kind::triple_fault, 4, "triple-fault"},
                {Kind::guest_panic, 3, "panic"},   {Kind::failed, 1, "failed"},
                {Kind::stopped, 0, "stopped"},     {Kind::timed_out, 124, "timeout"}};
    for (const auto& row : rows) {
        const Outcome outcome{.kind = row.kind, .code = 33, .error = {}};
        EXPECT_EQ(outcome.exit_code(), row.exit_code) << row.name;
        EXPECT_EQ(outcome.name(), row.name);
    }
    EXPECT_EQ((Outcome{.kind = Kind::guest_exit, .code = 0, .error = {}}.exit_code()), 0);
    EXPECT_EQ((Outcome{.kind = Kind::guest_exit, .code = 255, .error = {}}.exit_code()), 255);
}

}  // namespace
}  // namespace snapvm
