// SPDX-License-Identifier: Apache-2.0
// The Linux tests restore a guest for each case. The test LinuxBoot.GetsToAShell, a fixture to
// ctest, boots it once. The other tests of LinuxBoot, and LinuxDebian, boot guests of their own.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tests/linux/linux_guest.h"
#include "tests/support/command.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tap_network.h"

namespace snapvm::test {

/// Skips the test if there is no image or no KVM. A restored guest has a folder, a disk, a network
/// and a socket for this test alone.
class LinuxTest : public testing::Test {
protected:
    static constexpr const char* kTap = "tap0";
    static constexpr const char* kHostAddress = "192.0.2.1";
    static constexpr const char* kGuestAddress = "192.0.2.2";

    void SetUp() override;

    /// Return the place of the booted guest's snapshot, and of its disk at that moment, an empty
    /// ext4.
    static AreaPath booted_area();
    static std::string booted_disk();

    LinuxGuest restore_booted(GapMode gap = GapMode::hidden);
    [[nodiscard]] GuestPlaces places() const;
    /// Copies a disk. Holes stay holes.
    static void copy_disk(const std::string& from, const std::string& to);
    /// Returns the network, in which the host has an address. If there is none, the test has to be
    /// skipped for `network().reason()`.
    [[nodiscard]] const TapNetwork& network() const { return *network_; }
    static void give_address(LinuxGuest& guest);
    static void mount_disk(LinuxGuest& guest);
    /// Returns what `e2fsck -fn` finds on a disk whose machine has ended, or an empty text.
    static std::string file_system_faults(const std::string& disk);

    ScratchFolder scratch_;

private:
    std::optional<TapNetwork> network_;
};

/// Skips a test of the network if there is none. It works in the test's body only.
#define SNAPVM_REQUIRE_NETWORK()            \
    if (!network().reason().empty()) {      \
        GTEST_SKIP() << network().reason(); \
    }                                       \
    static_assert(true)

}  // namespace snapvm::test
