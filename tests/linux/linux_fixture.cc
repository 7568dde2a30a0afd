// SPDX-License-Identifier: Apache-2.0
#include "tests/linux/linux_fixture.h"

#include <stdexcept>

#include "tests/support/paths.h"
#include "tests/support/require_kvm.h"

namespace snapvm::test {

void LinuxTest::SetUp() {
    SNAPVM_REQUIRE_KVM();
    if (!LinuxImage::find().built()) {
        GTEST_SKIP() << "the Linux image is not built: ./dev linux";
    }
    network_.emplace();
    if (network_->reason().empty()) {
        network_->add(kTap);
        network_->set_address(kTap, kHostAddress);
    }
}

AreaPath LinuxTest::booted_area() { return {build_folder() + "/linux-tests/booted", 0}; }
std::string LinuxTest::booted_disk() { return build_folder() + "/linux-tests/disk"; }

GuestPlaces LinuxTest::places() const {
    return {scratch_.file("disk"), network_->reason().empty() ? kTap : "", scratch_.file("vsock")};
}

LinuxGuest LinuxTest::restore_booted(GapMode gap) {
    copy_disk(booted_disk(), places().disk);
    return LinuxGuest::restore(booted_area(), places(), gap);
}

void LinuxTest::copy_disk(const std::string& from, const std::string& to) {
    const CommandResult copied = run_program({"cp", "--sparse=always", from, to});
    if (copied.exit_code != 0) {
        throw std::runtime_error(copied.err + "(the test LinuxBoot.GetsToAShell boots the guest that others restore)");
    }
}

void LinuxTest::give_address(LinuxGuest& guest) {
    (void)guest.output(std::string("ifconfig eth0 ") + kGuestAddress + " netmask 255.255.255.0 up");
}

void LinuxTest::mount_disk(LinuxGuest& guest) { (void)guest.output("mount -t ext4 /dev/vda /mnt"); }

std::string LinuxTest::file_system_faults(const std::string& disk) {
    const CommandResult check = run_program({"e2fsck", "-fn", disk});
    return check.exit_code == 0 ? "" : check.out + check.err;
}

}  // namespace snapvm::test
