// SPDX-License-Identifier: Apache-2.0
// For tests that need a machine. The reason must name /dev/kvm: if a test was skipped for that on a
// host that has it, `./dev test` fails.
#pragma once

#include <gtest/gtest.h>

#include "vmm/kvm/system.h"

/// Skips the test on a host without a usable /dev/kvm. It works in the test's body only.
#define SNAPVM_REQUIRE_KVM()                                                  \
    if (const auto kvm_system = ::snapvm::kvm::System::open(); !kvm_system) { \
        GTEST_SKIP() << "needs /dev/kvm: " << kvm_system.error().message();   \
    }                                                                         \
    static_assert(true)
