// SPDX-License-Identifier: Apache-2.0
// Machines with disks in qcow2 images.
#include <exception>
#include <filesystem>

#include "tests/kvm/ledger_guest.h"
#include "tests/support/qemu_img.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kDiskBytes = 1ULL << 20;

class Qcow2Disk : public KvmTest {
protected:
    [[nodiscard]] std::string path(std::string_view name) const { return area(name).path; }
    [[nodiscard]] std::unique_ptr<Machine> boot(const std::string& image) const {
        LedgerOptions options{.cpus = 2, .cmdline = "ws=1M seen=1 disk=1 rate=0"};
        options.devices.disks = {{.id = "ledger", .path = image, .format = DiskFormat::qcow2}};
        return boot_ledger(options);
    }
    /// Returns what a guest sees of an image that nothing has open.
    [[nodiscard]] Bytes contents(const std::string& image) const {
        qemu_img({"convert", "-f", "qcow2", "-O", "raw", image, path("raw")});
        return read_file(path("raw"));
    }
    /// Makes the images of a case and returns the machine's.
    using Make = std::string (*)(const std::string& folder);
    void expect_moments(Make make);
};

std::string plain(const std::string& folder) {
    make_image(folder + "/image", kDiskBytes);
    return folder + "/image";
}

std::string over_a_base(const std::string& folder) {
    make_image(folder + "/base", kDiskBytes, {}, "raw");
    qemu_io(folder + "/base", {"write -P 0x78 0 1M"}, "raw");
    qemu_img({"create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "-o", "extended_l2=on", folder + "/image"});
    return folder + "/image";
}

// At each pause a copy of the image is whole, and of one moment with the memory.
void Qcow2Disk::expect_moments(Make make) {
    const std::string image = make(std::filesystem::path(path("area")).parent_path());
    std::unique_ptr<Machine> machine = boot(image);
    EXPECT_EQ(machine->disk_bytes(), std::vector{kDiskBytes}) << "the virtual size";
    wait_for_records(*machine, 1);
    for (int moment = 0; moment < 5; ++moment) {
        SCOPED_TRACE(moment);
        run_a_while(20ms);
        const std::uint64_t records = disk_header(machine->memory()).submitted;
        const AreaPath to = area(moment % 2 == 0 ? "even" : "odd");
        WriteOptions options;
        options.keep_frozen = true;
        snapshot(*machine, to, options);
        std::filesystem::copy_file(image, path("copy"), std::filesystem::copy_options::overwrite_existing);
        machine.reset();
        for (const std::string& one : {path("copy"), image}) {
            SCOPED_TRACE(one);
            EXPECT_TRUE(is_clean(one));
            EXPECT_EQ(check_disk(need(open_snapshot(to)).memory, contents(one)), "");
        }
        machine = restore(to);
        need(machine->resume());
        const LedgerLine line = verify_ledger(*machine);
        ASSERT_TRUE(line.ok) << line.text;
        wait_for_records(*machine, records + 1);
    }
    expect_sound_end(*machine);
    machine.reset();
    EXPECT_TRUE(is_clean(image));
}

TEST_F(Qcow2Disk, MemoryAndImageAreOfOneMoment) {
    SNAPVM_REQUIRE_QEMU_IMG();
    expect_moments(plain);
}

TEST_F(Qcow2Disk, MemoryAndAnOverlayAreOfOneMoment) {
    SNAPVM_REQUIRE_QEMU_IMG();
    expect_moments(over_a_base);
}

TEST_F(Qcow2Disk, OneMachineWritesAnImage) {
    SNAPVM_REQUIRE_QEMU_IMG();
    const std::string image = plain(std::filesystem::path(path("area")).parent_path());
    std::unique_ptr<Machine> machine = boot(image);
    wait_for_records(*machine, 1);
    WriteOptions options;
    options.keep_frozen = true;
    snapshot(*machine, area(), options);
    EXPECT_THROW((void)restore(area()), std::exception) << "the first machine has the image still";
    machine.reset();
    machine = restore(area());
    need(machine->resume());
    expect_sound_end(*machine);
}

}  // namespace
}  // namespace snapvm::test
