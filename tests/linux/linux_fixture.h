// SPDX-License-Identifier: Apache-2.0
// The Linux tests boot once (the test LinuxBoot.GetsToAShell, a fixture to ctest) and restore for each case.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tests/linux/linux_guest.h"
#include "tests/support/command.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tap_network.h"

namespace snapvm::test {

/// Skips where there is no image or no KVM. What is restored has a folder, a disk, a network and a socket of this test's own.
class LinuxTest : public testing::Test {
protected:
    static constexpr const char* kTap = "tap0";
    static constexpr const char* kHostAddress = "192.0.2.1";
    static constexpr const char* kGuestAddress = "192.0.2.2";

    void SetUp() override;

    /// Where the booted guest's snapshot is, and its disk as it was at that moment: an empty ext4.
    static AreaPath booted_area();
    static std::string booted_disk();

    LinuxGuest restore_booted(GapMode gap = GapMode::hidden);
    [[nodiscard]] GuestPlaces places() const;
    /// Holes stay holes.
    static void copy_disk(const std::string& from, const std::string& to);
    /// With an address for the guest; where there is none, the test is to be skipped for `network().reason()`.
    [[nodiscard]] const TapNetwork& network() const { return *network_; }
    static void give_address(LinuxGuest& guest);
    static void mount_disk(LinuxGuest& guest);
    /// What `e2fsck -fn` finds on a disk whose machine has gone; empty: nothing.
    static std::string file_system_faults(const std::string& disk);

    ScratchFolder scratch_;

private:
    std::optional<TapNetwork> network_;
};

/// Skips a test of the network where there is none. In the test's body only.
#define SNAPVM_REQUIRE_NETWORK()            \
    if (!network().reason().empty()) {      \
        GTEST_SKIP() << network().reason(); \
    }                                       \
    static_assert(true)

}  // namespace snapvm::test
