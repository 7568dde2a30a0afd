// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kernel_log.h"

#include <gtest/gtest.h>

namespace snapvm::test {
namespace {

TEST(KernelLog, FindsLinesOfTrouble) {
    const std::string trouble =
        "[    1.0] WARNING: CPU: 0 PID: 1 at kernel/time.c:1\n"
        "[    1.1] virtio_blk virtio0: failed to find virt queue\n"
        "[    1.2] virtio_net virtio1: Failed to negotiate features\n";
    EXPECT_EQ(trouble_in("[    0.9] Linux version 6.1\n" + trouble + "[    1.3] Run /init as init process\n"), trouble);
}

TEST(KernelLog, AHealthyLogHasNone) {
    EXPECT_EQ(trouble_in("[    1.0] virtio_blk virtio0: [vda] 2048 512-byte logical blocks\n"
                         "[    1.1] thermal: fail-safe is on\n"
                         "[    1.2] thermal: failed; virtio_net virtio1 is not used\n"),
              "");
}

}  // namespace
}  // namespace snapvm::test
